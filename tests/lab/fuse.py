# A file system in memory, served over /dev/fuse (linux/fuse.h, version 7.31), that refuses operations as real ones do.
#
#   python3 fuse.py DIRECTORY [OPCODE=ERRNO]...
#
# mounts it on DIRECTORY. 13=1: LINK fails with EPERM, as on vfat. 12=17 and 45=17: RENAME and RENAME2 do so only over a file
# that is there. With 33=ERRNO flock(2) is asked of the server, otherwise the kernel answers it alone.
import ctypes, os, struct, sys, time

directory, refused = sys.argv[1], dict(map(int, word.split("=")) for word in sys.argv[2:])
device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"fuse", directory.encode(), b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))

ENOENT, EEXIST, ENOTEMPTY, ENOSYS = 2, 17, 39, 38
FOLDER = 0o040000
# ATOMIC_O_TRUNC, BIG_WRITES; FLOCK_LOCKS.
FLAGS = 1 << 3 | 1 << 5 | (1 << 10 if 33 in refused else 0)
SIZE, MTIME, MTIME_NOW, MODE = 1 << 3, 1 << 5, 1 << 8, 1


class Refusal(Exception):
    pass


class Node:
    def __init__(self, mode):
        self.mode, self.data, self.names = mode, bytearray(), {}
        self.mtime = self.ctime = time.time_ns()

    def changed(self):
        self.mtime = self.ctime = time.time_ns()


nodes = {1: Node(FOLDER | 0o755)}


def attributes(number):
    node = nodes[number]
    (mtime, mtime_ns), (ctime, ctime_ns) = divmod(node.mtime, 10**9), divmod(node.ctime, 10**9)
    size = len(node.data)
    times = (mtime, mtime, ctime, mtime_ns, mtime_ns, ctime_ns)
    return struct.pack("<6Q10I", number, size, (size + 511) // 512, *times, node.mode, 1, 0, 0, 0, 4096, 0)


def entry(number):
    return struct.pack("<4Q2I", number, 0, 0, 0, 0, 0) + attributes(number)


def find(folder, name):
    if name not in nodes[folder].names:
        raise Refusal(ENOENT)
    return nodes[folder].names[name]


def make(folder, name, mode):
    if name in nodes[folder].names:
        raise Refusal(EEXIST)
    number = max(nodes) + 1
    nodes[number] = Node(mode)
    nodes[folder].names[name] = number
    nodes[folder].changed()
    return number


def remove(folder, name):
    number = find(folder, name)
    if nodes[number].names:
        raise Refusal(ENOTEMPTY)
    del nodes[folder].names[name]
    nodes[folder].changed()


def rename(opcode, folder, body):
    target, = struct.unpack_from("<Q", body)
    old, new = body[16 if opcode == 45 else 8:].split(b"\0")[:2]
    number = find(folder, old)
    if new in nodes[target].names and opcode in refused:
        raise Refusal(refused[opcode])
    del nodes[folder].names[old]
    nodes[target].names[new] = number
    nodes[number].ctime = time.time_ns()
    nodes[folder].changed()
    nodes[target].changed()


def set_attributes(number, body):
    node = nodes[number]
    valid, _, _, size, _, _, mtime, _, _, mtime_ns, _, mode = struct.unpack_from("<2I6Q4I", body)
    if valid & MODE:
        node.mode = mode
    if valid & SIZE:
        node.data = node.data[:size].ljust(size, b"\0")
        node.changed()
    if valid & MTIME:
        node.mtime = time.time_ns() if valid & MTIME_NOW else mtime * 10**9 + mtime_ns
    node.ctime = time.time_ns()
    return struct.pack("<Q2I", 0, 0, 0) + attributes(number)


def entries(number, body):
    _, offset, size = struct.unpack_from("<2QI", body)
    out = b""
    for at, (name, child) in enumerate(list(nodes[number].names.items())[offset:], offset + 1):
        one = struct.pack("<2Q2I", child, at, len(name), nodes[child].mode >> 12) + name
        one += b"\0" * (-len(one) % 8)
        if len(out) + len(one) > size:
            break
        out += one
    return out


def answer(opcode, number, body):
    node = nodes.get(number)
    name = body.split(b"\0")[0]
    if opcode in refused and opcode not in (12, 45):
        raise Refusal(refused[opcode])
    match opcode:
        case 1:  # LOOKUP
            return entry(find(number, name))
        case 3:  # GETATTR
            return struct.pack("<Q2I", 0, 0, 0) + attributes(number)
        case 4:  # SETATTR
            return set_attributes(number, body)
        case 9:  # MKDIR
            return entry(make(number, body[8:].split(b"\0")[0], FOLDER | struct.unpack_from("<I", body)[0] & 0o7777))
        case 10 | 11:  # UNLINK, RMDIR
            remove(number, name)
        case 12 | 45:  # RENAME, RENAME2
            rename(opcode, number, body)
        case 14 | 27:  # OPEN, OPENDIR
            if opcode == 14 and struct.unpack_from("<I", body)[0] & os.O_TRUNC:
                node.data = bytearray()
                node.changed()
            return bytes(16)
        case 15:  # READ
            _, offset, size = struct.unpack_from("<2QI", body)
            return bytes(node.data[offset:offset + size])
        case 16:  # WRITE
            _, offset, size = struct.unpack_from("<2QI", body)
            node.data = node.data.ljust(offset, b"\0")
            node.data[offset:offset + size] = body[40:40 + size]
            node.changed()
            return struct.pack("<2I", size, 0)
        case 17:  # STATFS
            return struct.pack("<5Q4I24x", 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096, 0)
        case 18 | 20 | 25 | 29 | 30:  # RELEASE, FSYNC, FLUSH, RELEASEDIR, FSYNCDIR
            pass
        case 26:  # INIT
            return struct.pack("<4I2H2I2H8I", 7, 31, 1 << 17, FLAGS, 16, 12, 1 << 17, 1, 32, 0, *[0] * 8)
        case 28:  # READDIR
            return entries(number, body)
        case 35:  # CREATE
            mode = struct.unpack_from("<4I", body)[1]
            return entry(make(number, body[16:].split(b"\0")[0], mode)) + bytes(16)
        case _:
            raise Refusal(ENOSYS)
    return b""


while True:
    request = os.read(device, 1 << 18)
    _, opcode, unique, number = struct.unpack_from("<2I2Q", request)
    if opcode in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET: not answered
        continue
    try:
        error, out = 0, answer(opcode, number, request[40:])
    except Refusal as refusal:
        error, out = -refusal.args[0], b""
    os.write(device, struct.pack("<IiQ", 16 + len(out), error, unique) + out)
