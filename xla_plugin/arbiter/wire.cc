#include "wire.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <system_error>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace missile::arbiter {
namespace {

constexpr std::size_t kMostFiles = 4;

[[noreturn]] void Throw(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

sockaddr_un Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    throw std::invalid_argument("arbiter: the path of a socket must be shorter than " +
                                std::to_string(sizeof(address.sun_path)) + " bytes, got " + path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

File Socket() {
  File socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) Throw("arbiter: socket");
  return socket;
}

}  // namespace

std::string Folder() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const std::string folder = runtime != nullptr && runtime[0] == '/'
                                 ? std::string(runtime) + "/missile"
                                 : "/tmp/missile-" + std::to_string(getuid());
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) Throw("arbiter: mkdir " + folder);
  struct stat about{};
  if (lstat(folder.c_str(), &about) != 0) Throw("arbiter: stat " + folder);
  if (!S_ISDIR(about.st_mode) || about.st_uid != getuid() || (about.st_mode & 0077) != 0) {
    throw std::runtime_error("arbiter: " + folder +
                             " must be a folder of this user with mode 0700, and no link");
  }
  return folder;
}

void CheckDevice(const std::string& device) {
  const auto fine = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
  };
  if (device.empty() || device.size() > 64 ||
      std::isalnum(static_cast<unsigned char>(device[0])) == 0 ||
      !std::all_of(device.begin(), device.end(), fine)) {
    throw std::invalid_argument(
        "arbiter: a device is named by 1 to 64 of A-Z a-z 0-9 . _ - and "
        "starts with a letter or digit, got '" +
        device + "'");
  }
}

File Listen(const std::string& path) {
  File socket = Socket();
  const sockaddr_un address = Address(path);
  unlink(path.c_str());
  const mode_t before = umask(0177);
  const int bound = bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  umask(before);
  if (bound != 0) Throw("arbiter: bind " + path);
  if (listen(socket.get(), 64) != 0) Throw("arbiter: listen at " + path);
  return socket;
}

File Connect(const std::string& path) {
  File socket = Socket();
  const sockaddr_un address = Address(path);
  // One that is stopped accepts nobody: then this ends with EAGAIN.
  const timeval most{0, 200'000};
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return socket;
  }
  if (errno == ENOENT || errno == ECONNREFUSED || errno == EAGAIN) return {};
  Throw("arbiter: connect to " + path);
}

bool Send(const File& socket, const void* data, std::size_t size_bytes,
          const std::vector<int>& files) {
  iovec part{const_cast<void*>(data), size_bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostFiles * sizeof(int))> control{};
  if (!files.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(files.size() * sizeof(int));
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(files.size() * sizeof(int));
    std::memcpy(CMSG_DATA(head), files.data(), files.size() * sizeof(int));
  }
  ssize_t sent = 0;
  do {
    sent = sendmsg(socket.get(), &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(size_bytes);
}

bool Receive(const File& socket, void* data, std::size_t size_bytes, std::vector<File>* files) {
  iovec part{data, size_bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostFiles * sizeof(int))> control{};
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = 0;
  do {
    got = recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return false;
  // What came is taken first, so that it is closed whatever else is wrong.
  std::vector<File> came;
  for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr;
       head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t k = 0; k < count; ++k) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(head) + k * sizeof(int), sizeof descriptor);
      came.emplace_back(descriptor);
    }
  }
  const bool whole = got == static_cast<ssize_t>(size_bytes) &&
                     (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
  if (files != nullptr) *files = std::move(came);
  return whole;
}

Peer PeerOf(const File& socket) {
  ucred who{};
  socklen_t size = sizeof who;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) {
    Throw("arbiter: SO_PEERCRED");
  }
  int process = -1;
  size = sizeof process;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERPIDFD, &process, &size) != 0) {
    // Before Linux 6.5. The number cannot be another's yet while the peer is connected: if it died
    // in between, the connection has ended, which is looked at after this.
    process = static_cast<int>(syscall(SYS_pidfd_open, who.pid, 0));
    if (process < 0) Throw("arbiter: pidfd_open");
    File opened(process);
    pollfd state{socket.get(), 0, 0};
    if (poll(&state, 1, 0) > 0 && (state.revents & POLLHUP) != 0) {
      errno = ESRCH;
      Throw("arbiter: a tenant that is dead");
    }
    return {who.pid, who.uid, std::move(opened)};
  }
  return {who.pid, who.uid, File(process)};
}

}  // namespace missile::arbiter
