// What tenants and their arbiter tell each other in shared memory. See docs/arbiter.md.
//
// A tenant writes its own page and the arbiter only reads it; the arbiter writes one page and
// tenants can only read it. Both are memfds of fixed size. All loads and stores of what both sides
// act on are sequentially consistent: each side announces first and looks afterwards, so that one
// of the two sees the other.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace missile::arbiter {

inline constexpr std::uint32_t kTenantMagic = 0x324e544d;   // "MTN2"
inline constexpr std::uint32_t kArbiterMagic = 0x3142414d;  // "MAB1"
inline constexpr std::uint32_t kMostTenants = 128;
inline constexpr std::size_t kNameBytes = 64;
inline constexpr double kLeastWeight = 1e-3;
inline constexpr double kMostWeight = 1e3;
inline constexpr std::uint32_t kMostInFlight = 1024;

// What a tenant tells for people to see. No decision hangs on more than `busy_ns`, which is bounded
// by the time of its turns.
struct Figures {
  std::atomic<std::uint64_t> launches;
  std::atomic<std::uint64_t> waits;  // Launches that had to wait.
  std::atomic<std::uint64_t> waited_ns;
  std::atomic<std::uint64_t> busy_ns;  // With a launch in flight.
  std::atomic<std::uint64_t> longest_ns;
  std::atomic<std::uint64_t> memory_bytes;
  std::atomic<std::uint64_t> memory_peak_bytes;
  std::atomic<std::uint64_t> memory_limit_bytes;  // 0: none.
};

struct TenantPage {
  // Written before the page is shown to anybody, and read once.
  std::uint32_t magic;
  std::uint32_t latency;
  double weight;
  std::array<char, kNameBytes> name;  // Ends with a zero.
  std::uint32_t yields;               // BE: its threads run only where nobody else wants to.

  // LS: launches announced and not ended. BE: launches let go and not ended; its own threads wait
  // here when they are too many.
  alignas(64) std::atomic<std::uint32_t> in_flight;
  // BE: threads that wait for a turn.
  std::atomic<std::uint32_t> wanting;
  // When the last launch was announced or ended.
  std::atomic<std::int64_t> stamp_ns;

  alignas(64) Figures figures;
};

// A turn: whose it is, as the generation of its slot, and until when. One word, so that no reader
// sees half of it; 0 is no turn.
class Turn {
 public:
  static constexpr int kTimeBits = 40;  // Milliseconds: 34 years of uptime.
  static constexpr std::uint64_t kTimeMask = (std::uint64_t{1} << kTimeBits) - 1;
  static constexpr std::uint32_t kMostGeneration = (1U << 24) - 1;

  constexpr Turn() = default;
  constexpr explicit Turn(std::uint64_t word) : word_(word) {}
  constexpr Turn(std::uint32_t generation, std::int64_t until_ns)
      : word_(std::uint64_t{generation} << kTimeBits |
              (static_cast<std::uint64_t>(until_ns / 1'000'000) & kTimeMask)) {}

  constexpr std::uint64_t word() const { return word_; }
  constexpr bool Of(std::uint32_t generation) const {
    return word_ != 0 && word_ >> kTimeBits == generation;
  }
  constexpr std::int64_t until_ns() const {
    return static_cast<std::int64_t>(word_ & kTimeMask) * 1'000'000;
  }

 private:
  std::uint64_t word_ = 0;
};

struct alignas(64) Slot {
  std::atomic<std::uint64_t> turn;
  // Grows whenever `turn` does change; who waits for a turn sleeps here.
  std::atomic<std::uint32_t> bell;
};

struct ArbiterPage {
  std::uint32_t magic;
  std::int32_t pid;
  // A best-effort tenant has the turn: who is latency-sensitive rings when it comes.
  alignas(64) std::atomic<std::uint32_t> open;
  // Best-effort tenants wait for latency-sensitive ones, who ring when they end.
  std::atomic<std::uint32_t> held_back;
  // Others wait for the turn: who has it rings when it has nothing in flight.
  std::atomic<std::uint32_t> contended;
  // When the arbiter last looked at its tenants.
  alignas(64) std::atomic<std::int64_t> alive_ns;
  std::array<Slot, kMostTenants> slots;
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(sizeof(std::atomic<std::uint32_t>) == 4, "a futex is a word");

// Sleeps while `word` is `value`, at most so long. Wakes up for no reason too.
void FutexWait(const std::atomic<std::uint32_t>& word, std::uint32_t value,
               std::int64_t timeout_ns);
// Wakes all who sleep at `word`, which may be memory that can only be read.
void FutexWake(const std::atomic<std::uint32_t>& word);

}  // namespace missile::arbiter
