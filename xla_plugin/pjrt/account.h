// What a tenant has of one device's memory, and may have.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

namespace missile::pjrt {

struct AccountStats {
  std::uint64_t used_bytes = 0;  // Of buffers, and temporaries of launches in flight.
  std::uint64_t peak_bytes = 0;
  std::uint64_t temporary_bytes = 0;
  std::uint64_t limit_bytes = 0;  // 0 for none.
  std::uint64_t charges = 0;
  std::uint64_t largest_bytes = 0;  // The largest charge.
};

// Safe on any thread.
class Account {
 public:
  Account(std::string tenant, int device, std::uint64_t limit_bytes)
      : tenant_(std::move(tenant)), device_(device), limit_bytes_(limit_bytes) {}

  // Takes memory for one buffer. Returns whether the limit allows it.
  bool Charge(std::uint64_t bytes);
  // A buffer that is there already turned out to be of another size.
  void Adjust(std::uint64_t from_bytes, std::uint64_t to_bytes);
  void Release(std::uint64_t bytes);

  // Takes what a launch needs beyond its arguments. `returned_bytes`: of arguments whose memory its
  // results take over. Waits as long as temporaries of earlier launches are in the way, unless one
  // of these runs code of the host, which may be what launches now. Returns whether the limit
  // allows it.
  bool ChargeLaunch(std::uint64_t output_bytes, std::uint64_t temporary_bytes,
                    std::uint64_t returned_bytes, bool host_callback);
  void EndLaunch(std::uint64_t temporary_bytes, bool host_callback);

  void ResetPeak();
  AccountStats Stats() const;
  // What a tenant is told that may not have `bytes` for `purpose`.
  std::string Refusal(const std::string& purpose, std::uint64_t bytes) const;

 private:
  // With the mutex held.
  bool Fits(std::uint64_t bytes) const {
    return limit_bytes_ == 0 || (bytes <= limit_bytes_ && used_bytes_ <= limit_bytes_ - bytes);
  }
  void Take(std::uint64_t bytes);

  const std::string tenant_;
  const int device_;
  const std::uint64_t limit_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable launch_ended_;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t peak_bytes_ = 0;
  std::uint64_t temporary_bytes_ = 0;
  std::uint64_t charges_ = 0;
  std::uint64_t largest_bytes_ = 0;
  int callbacks_ = 0;
};

}  // namespace missile::pjrt
