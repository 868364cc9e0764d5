/* The yardstick: what a bridge + host-local ADD without masquerade asks of the kernel, and nothing else. No files, no
 * configuration, no checks, no result; an address that is known beforehand; a bridge that is there. A plugin cannot
 * be faster than this, so its time is given as a multiple of it.
 *
 *     bare add NETNS BRIDGE HOST_VETH IFNAME ADDRESS/PREFIX GATEWAY
 *     bare del NETNS IFNAME
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

/* --- the work --------------------------------------------------------------------------------------------------- */

/* One request makes both ends: the host's up and in the bridge, the container's named and in its namespace. */
static void make_veth(int host, int netns, int bridge, const char *veth, const char *ifname)
{
    struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, plain = {0};
    struct nlmsghdr *message = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof up);
    name(IFLA_IFNAME, veth);
    attribute(IFLA_MASTER, &bridge, sizeof bridge);
    struct rtattr *info = attribute(IFLA_LINKINFO, NULL, 0);
    name(IFLA_INFO_KIND, "veth");
    struct rtattr *data = attribute(IFLA_INFO_DATA, NULL, 0);
    struct rtattr *peer = attribute(VETH_INFO_PEER, &plain, sizeof plain);
    name(IFLA_IFNAME, ifname);
    attribute(IFLA_NET_NS_FD, &netns, sizeof netns);
    close_nest(peer);
    close_nest(data);
    close_nest(info);
    end(message);
    ask(host, 1, "veth");
}

/* In this order: an address may come first, but a route needs a link that is up and a gateway that is reachable. */
static void set_up_container(int fd, int link, struct in_addr address, uint8_t prefix, struct in_addr gateway)
{
    struct ifaddrmsg ifa = {.ifa_family = AF_INET, .ifa_prefixlen = prefix, .ifa_index = link};
    struct nlmsghdr *message = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &ifa, sizeof ifa);
    attribute(IFA_LOCAL, &address, sizeof address);
    attribute(IFA_ADDRESS, &address, sizeof address);
    end(message);

    struct ifinfomsg up = {.ifi_index = link, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    end(begin(RTM_NEWLINK, 0, &up, sizeof up));

    struct rtmsg route = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT,
                          .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNICAST};
    message = begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route, sizeof route);
    attribute(RTA_GATEWAY, &gateway, sizeof gateway);
    attribute(RTA_OIF, &link, sizeof link);
    end(message);
    ask(fd, 3, "address, link up, default route");
}

static void add(char **argv)
{
    int netns = enter(argv[0]), host = open_route_socket();
    make_veth(host, netns, index_of(host, argv[1]), argv[2], argv[3]);

    /* A socket stays in the namespace it was made in. */
    if (setns(netns, CLONE_NEWNET) < 0) die("setns");
    int inside = open_route_socket();
    struct in_addr address, gateway;
    char *slash = strchr(argv[4], '/');
    if (!slash) die("ADDRESS/PREFIX");
    *slash = 0;
    inet_pton(AF_INET, argv[4], &address);
    inet_pton(AF_INET, argv[5], &gateway);
    set_up_container(inside, index_of(inside, argv[3]), address, atoi(slash + 1), gateway);
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
        return fputs("usage: bare add NETNS BRIDGE HOST_VETH IFNAME ADDRESS/PREFIX GATEWAY | bare del NETNS IFNAME\n", stderr), 2;
    return 0;
}
