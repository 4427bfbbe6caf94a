// How tenants find their arbiter and what they say when they meet.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "memory.h"
#include "page.h"

namespace missile::arbiter {

inline constexpr std::uint32_t kWireMagic = 0x3157414d;  // "MAW1"

enum class Ask : std::uint32_t { kNothing = 0, kJoin = 1, kList = 2 };

// The first message of a connection. With kJoin come two files: the tenant's page, and an eventfd
// that it rings.
struct Hello {
  std::uint32_t magic;
  Ask ask;
  std::int64_t now_ns;
};

// The answer to kJoin. `refusal` is empty where the arbiter's page comes with it.
struct Welcome {
  std::uint32_t magic;
  std::uint32_t slot;
  std::uint32_t generation;
  std::array<char, 180> refusal;
};

// The answer to kList: one of these for each tenant, and one without a pid at the end.
struct Row {
  std::int32_t pid;
  std::uint32_t latency;
  std::uint32_t in_flight;
  std::uint32_t wanting;
  std::uint32_t holds;  // It has the turn.
  double weight;
  std::array<char, kNameBytes> name;
  std::int64_t joined_ns;
  std::int64_t now_ns;
  std::int64_t held_ns;  // Time of its turns.
  std::uint64_t launches;
  std::uint64_t waits;
  std::uint64_t waited_ns;
  std::uint64_t busy_ns;
  std::uint64_t longest_ns;
  std::uint64_t memory_bytes;
  std::uint64_t memory_peak_bytes;
  std::uint64_t memory_limit_bytes;
};

// The folder of this user's arbiters: $XDG_RUNTIME_DIR/missile, else /tmp/missile-UID; made if it
// is not there. Throws std::runtime_error unless it is a folder of this user that nobody else may
// enter.
std::string Folder();
// Throws std::invalid_argument unless `device` is 1 to 64 letters, digits, dots, dashes or
// underscores, and starts with a letter or digit.
void CheckDevice(const std::string& device);

// Bound and listening; only this user may connect. Throws std::system_error.
File Listen(const std::string& path);
// Connected, or no file if nobody listens there. Throws std::system_error.
File Connect(const std::string& path);

// Whole messages with files. They return false at the end of a connection, or where the other side
// breaks the form.
bool Send(const File& socket, const void* data, std::size_t size_bytes,
          const std::vector<int>& files = {});
bool Receive(const File& socket, void* data, std::size_t size_bytes,
             std::vector<File>* files = nullptr);

struct Peer {
  pid_t pid;
  uid_t uid;
  File process;  // A pidfd: readable once the process is dead, whoever has its number then.
};
// Throws std::system_error.
Peer PeerOf(const File& socket);

}  // namespace missile::arbiter
