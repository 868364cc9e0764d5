/* The yardstick: what the ADD of an interface plugin with host-local and without masquerade asks of the kernel, and nothing
 * else. No files, no configuration, no checks, no result; an address that is known beforehand; a bridge or a lower device
 * that is there. A plugin cannot be faster than this, so its time is given as a multiple of it.
 *
 *     bare add KIND NETNS LOWER IFNAME ADDRESS/PREFIX GATEWAY
 *     bare del NETNS IFNAME
 *
 * KIND: bridge, ptp, macvlan, ipvlan, vlan, dummy or tap. LOWER: the bridge, or the device below; not used by the others.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/ip.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>

static char buffer[4096];
static size_t used;

static void die(const char *what)
{
    fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- writing messages ------------------------------------------------------------------------------------------- */

static void *put(const void *data, size_t size)
{
    void *place = buffer + used;
    memcpy(place, data, size);
    used += NLMSG_ALIGN(size);
    return place;
}

static struct nlmsghdr *begin(uint16_t type, uint16_t flags, const void *header, size_t size)
{
    struct nlmsghdr head = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags};
    struct nlmsghdr *message = put(&head, sizeof head);
    put(header, size);
    return message;
}

static void end(struct nlmsghdr *message) { message->nlmsg_len = buffer + used - (char *)message; }

static struct rtattr *attribute(uint16_t type, const void *data, size_t size)
{
    struct rtattr head = {.rta_type = type, .rta_len = RTA_LENGTH(size)};
    struct rtattr *place = put(&head, sizeof head);
    put(data, size);
    return place;
}

static void close_nest(struct rtattr *nest) { nest->rta_len = buffer + used - (char *)nest; }

static void name(uint16_t type, const char *text) { attribute(type, text, strlen(text) + 1); }

/* --- talking to the kernel -------------------------------------------------------------------------------------- */

static int open_route_socket(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) die("netlink socket");
    return fd;
}

/* Everything in the buffer goes in one send; the kernel has worked it off when that returns. */
static void ask(int fd, int messages, const char *what)
{
    static char answer[4096];
    if (send(fd, buffer, used, 0) < 0) die(what);
    used = 0;
    while (messages > 0) {
        int size = recv(fd, answer, sizeof answer, 0);
        if (size < 0) die(what);
        for (struct nlmsghdr *head = (void *)answer; NLMSG_OK(head, size); head = NLMSG_NEXT(head, size)) {
            if (head->nlmsg_type != NLMSG_ERROR) continue;
            errno = -((struct nlmsgerr *)NLMSG_DATA(head))->error;
            if (errno) die(what);
            messages--;
        }
    }
}

/* The kernel looks a name up for the price of one call; reading the link by netlink would cost three. */
static int index_of(int fd, const char *link)
{
    struct ifreq request = {0};
    strncpy(request.ifr_name, link, IFNAMSIZ - 1);
    if (ioctl(fd, SIOCGIFINDEX, &request) < 0) die(link);
    return request.ifr_ifindex;
}

static int enter(const char *netns)
{
    int fd = open(netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0) die(netns);
    return fd;
}

/* --- links -------------------------------------------------------------------------------------------------------- */

/* What is to be attached, and to what. */
struct attachment {
    const char *kind, *lower, *ifname;
    int netns;
    struct in_addr address, gateway;
    uint8_t prefix;
};

static const char VETH[] = "vethbare";

/* One request makes both ends: the host's up, and in the bridge if there is one, the container's named and in its namespace. */
static void make_veth(int host, const struct attachment *wanted, int bridge)
{
    struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, plain = {0};
    struct nlmsghdr *message = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof up);
    name(IFLA_IFNAME, VETH);
    if (bridge) attribute(IFLA_MASTER, &bridge, sizeof bridge);
    struct rtattr *info = attribute(IFLA_LINKINFO, NULL, 0);
    name(IFLA_INFO_KIND, "veth");
    struct rtattr *data = attribute(IFLA_INFO_DATA, NULL, 0);
    struct rtattr *peer = attribute(VETH_INFO_PEER, &plain, sizeof plain);
    name(IFLA_IFNAME, wanted->ifname);
    attribute(IFLA_NET_NS_FD, &wanted->netns, sizeof wanted->netns);
    close_nest(peer);
    close_nest(data);
    close_nest(info);
    end(message);
    ask(host, 1, "veth");
}

/* Modes as the plugins have them by default: bridge for macvlan, l2 for ipvlan; and VLAN 100. */
static void put_settings(const char *kind)
{
    uint32_t bridge = MACVLAN_MODE_BRIDGE;
    uint16_t l2 = IPVLAN_MODE_L2, flags = 0, vlan = 100;
    if (!strcmp(kind, "macvlan")) attribute(IFLA_MACVLAN_MODE, &bridge, sizeof bridge);
    if (!strcmp(kind, "vlan")) attribute(IFLA_VLAN_ID, &vlan, sizeof vlan);
    if (!strcmp(kind, "ipvlan")) {
        attribute(IFLA_IPVLAN_MODE, &l2, sizeof l2);
        attribute(IFLA_IPVLAN_FLAGS, &flags, sizeof flags);
    }
}

/* Created where it belongs, under its name. */
static void make_device(int host, const struct attachment *wanted)
{
    struct ifinfomsg plain = {0};
    int lower = strcmp(wanted->kind, "dummy") ? index_of(host, wanted->lower) : 0;
    struct nlmsghdr *message = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &plain, sizeof plain);
    name(IFLA_IFNAME, wanted->ifname);
    if (lower) attribute(IFLA_LINK, &lower, sizeof lower);
    attribute(IFLA_NET_NS_FD, &wanted->netns, sizeof wanted->netns);
    struct rtattr *info = attribute(IFLA_LINKINFO, NULL, 0);
    name(IFLA_INFO_KIND, wanted->kind);
    struct rtattr *data = attribute(IFLA_INFO_DATA, NULL, 0);
    put_settings(wanted->kind);
    close_nest(data);
    close_nest(info);
    end(message);
    ask(host, 1, wanted->kind);
}

/* Within the container's namespace: a tap belongs where it was opened. */
static void make_tap(const char *ifname)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_ONE_QUEUE};
    strncpy(request.ifr_name, ifname, IFNAMSIZ - 1);
    int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (tun < 0 || ioctl(tun, TUNSETIFF, &request) < 0 || ioctl(tun, TUNSETPERSIST, 1) < 0) die("tap");
    close(tun);
}

/* --- addresses and routes ----------------------------------------------------------------------------------------- */

static void put_address(int link, struct in_addr address, uint8_t prefix, uint32_t flags)
{
    struct ifaddrmsg ifa = {.ifa_family = AF_INET, .ifa_prefixlen = prefix, .ifa_index = link};
    struct nlmsghdr *message = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &ifa, sizeof ifa);
    attribute(IFA_LOCAL, &address, sizeof address);
    attribute(IFA_ADDRESS, &address, sizeof address);
    if (flags) attribute(IFA_FLAGS, &flags, sizeof flags);
    end(message);
}

static void put_up(int link)
{
    struct ifinfomsg up = {.ifi_index = link, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    end(begin(RTM_NEWLINK, 0, &up, sizeof up));
}

/* That the address is announced as soon as the link is up. */
static void put_announcement(int link)
{
    struct ifinfomsg plain = {.ifi_index = link};
    uint32_t on = 1;
    struct nlmsghdr *message = begin(RTM_NEWLINK, 0, &plain, sizeof plain);
    struct rtattr *families = attribute(IFLA_AF_SPEC, NULL, 0);
    struct rtattr *family = attribute(AF_INET, NULL, 0);
    struct rtattr *settings = attribute(IFLA_INET_CONF, NULL, 0);
    attribute(IPV4_DEVCONF_ARP_NOTIFY, &on, sizeof on);
    close_nest(settings);
    close_nest(family);
    close_nest(families);
    end(message);
}

/* To a network, or everywhere with prefix 0; through a gateway unless that is NULL. */
static void put_route(int link, struct in_addr to, uint8_t prefix, const struct in_addr *gateway)
{
    struct rtmsg route = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT,
                          .rtm_scope = gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK, .rtm_type = RTN_UNICAST,
                          .rtm_dst_len = prefix};
    struct nlmsghdr *message = begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route, sizeof route);
    if (prefix) attribute(RTA_DST, &to, sizeof to);
    if (gateway) attribute(RTA_GATEWAY, gateway, sizeof *gateway);
    attribute(RTA_OIF, &link, sizeof link);
    end(message);
}

static struct in_addr network(struct in_addr address, uint8_t prefix)
{
    return (struct in_addr){address.s_addr & htonl(~0u << (32 - prefix))};
}

/* In this order: an address may come first, but a route needs a link that is up and a gateway that is reachable. */
static void set_up_container(int fd, const struct attachment *wanted)
{
    int link = index_of(fd, wanted->ifname);
    put_address(link, wanted->address, wanted->prefix, 0);
    put_announcement(link);
    put_up(link);
    put_route(link, wanted->gateway, 0, &wanted->gateway);
    ask(fd, 4, "address, announcement, link up, default route");
}

/* ptp: everything goes through the host's end, the network's own addresses too. */
static void set_up_point(int fd, const struct attachment *wanted)
{
    int link = index_of(fd, wanted->ifname);
    put_address(link, wanted->address, wanted->prefix, IFA_F_NOPREFIXROUTE);
    put_up(link);
    put_route(link, wanted->gateway, 32, NULL);
    put_route(link, network(wanted->address, wanted->prefix), wanted->prefix, &wanted->gateway);
    put_route(link, wanted->gateway, 0, &wanted->gateway);
    ask(fd, 5, "address, link up, routes");
}

static void set_up_host(int fd, const struct attachment *wanted)
{
    int link = index_of(fd, VETH);
    put_address(link, wanted->gateway, 32, 0);
    put_route(link, wanted->address, 32, NULL);
    ask(fd, 2, "the host's address and route");
}

/* --- the work --------------------------------------------------------------------------------------------------- */

/* KIND NETNS LOWER IFNAME ADDRESS/PREFIX GATEWAY */
static struct attachment parse(char **argv)
{
    struct attachment wanted = {.kind = argv[0], .netns = enter(argv[1]), .lower = argv[2], .ifname = argv[3]};
    char *slash = strchr(argv[4], '/');
    if (!slash) die("ADDRESS/PREFIX");
    *slash = 0;
    wanted.prefix = atoi(slash + 1);
    inet_pton(AF_INET, argv[4], &wanted.address);
    inet_pton(AF_INET, argv[5], &wanted.gateway);
    return wanted;
}

static void add(char **argv)
{
    struct attachment wanted = parse(argv);
    int host = open_route_socket();
    int ptp = !strcmp(wanted.kind, "ptp"), tap = !strcmp(wanted.kind, "tap");
    if (ptp || !strcmp(wanted.kind, "bridge"))
        make_veth(host, &wanted, ptp ? 0 : index_of(host, wanted.lower));
    else if (!tap)
        make_device(host, &wanted);

    /* A socket stays in the namespace it was made in. */
    if (setns(wanted.netns, CLONE_NEWNET) < 0) die("setns");
    if (tap) make_tap(wanted.ifname);
    int inside = open_route_socket();
    if (!ptp) {
        set_up_container(inside, &wanted);
        return;
    }
    set_up_point(inside, &wanted);
    set_up_host(host, &wanted);
}

/* With the container's end its peer goes, and with both ends the address, the routes and the place in the bridge. */
static void del(char **argv)
{
    if (setns(enter(argv[0]), CLONE_NEWNET) < 0) die("setns");
    struct ifinfomsg plain = {0};
    struct nlmsghdr *message = begin(RTM_DELLINK, 0, &plain, sizeof plain);
    name(IFLA_IFNAME, argv[1]);
    end(message);
    ask(open_route_socket(), 1, "delete");
}

int main(int argc, char **argv)
{
    if (argc == 8 && !strcmp(argv[1], "add"))
        add(argv + 2);
    else if (argc == 4 && !strcmp(argv[1], "del"))
        del(argv + 2);
    else
        return fputs("usage: bare add KIND NETNS LOWER IFNAME ADDRESS/PREFIX GATEWAY | bare del NETNS IFNAME\n", stderr), 2;
    return 0;
}
