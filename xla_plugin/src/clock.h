// Monotonic time, the same as Python's time.monotonic_ns() and time.perf_counter_ns() on Linux.
#pragma once

#include <sys/prctl.h>

#include <chrono>
#include <cstdint>
#include <thread>

namespace missile {

inline std::int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

inline std::chrono::steady_clock::time_point TimePoint(std::int64_t ns) {
  return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(ns));
}

// Lets the sleeps of this thread end on time, where Linux would let them oversleep by 50 us.
inline void SleepExactly() { prctl(PR_SET_TIMERSLACK, 1'000UL, 0UL, 0UL, 0UL); }

// What a sleep may oversleep by: the last part of a wait is spun.
inline constexpr std::int64_t kSpinNs = 5'000;

inline void WaitUntilNs(std::int64_t due_ns) {
  if (due_ns - NowNs() > kSpinNs) std::this_thread::sleep_until(TimePoint(due_ns - kSpinNs));
  while (NowNs() < due_ns) {
  }
}

}  // namespace missile
