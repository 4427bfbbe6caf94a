#include "account.h"

#include <algorithm>

namespace missile::pjrt {

void Account::Take(std::uint64_t bytes) {
  used_bytes_ += bytes;
  peak_bytes_ = std::max(peak_bytes_, used_bytes_);
}

bool Account::Charge(std::uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (!Fits(bytes)) return false;
  Take(bytes);
  ++charges_;
  largest_bytes_ = std::max(largest_bytes_, bytes);
  return true;
}

void Account::Adjust(std::uint64_t from_bytes, std::uint64_t to_bytes) {
  if (from_bytes == to_bytes) return;
  std::lock_guard lock(mutex_);
  used_bytes_ -= from_bytes;
  Take(to_bytes);
}

void Account::Release(std::uint64_t bytes) {
  if (bytes == 0) return;
  std::lock_guard lock(mutex_);
  used_bytes_ -= bytes;
}

bool Account::ChargeLaunch(std::uint64_t output_bytes, std::uint64_t temporary_bytes,
                           std::uint64_t returned_bytes, bool host_callback) {
  const std::uint64_t needed_bytes = output_bytes + temporary_bytes;
  const std::uint64_t more_bytes = needed_bytes - std::min(needed_bytes, returned_bytes);
  std::unique_lock lock(mutex_);
  launch_ended_.wait(lock,
                     [&] { return Fits(more_bytes) || temporary_bytes_ == 0 || callbacks_ > 0; });
  if (!Fits(more_bytes)) return false;
  // The arguments' memory is given back when the launch has been enqueued, and is not counted twice
  // until then: a peak is of memory, not of bookkeeping.
  used_bytes_ += needed_bytes;
  peak_bytes_ = std::max(peak_bytes_, used_bytes_ - std::min(needed_bytes, returned_bytes));
  temporary_bytes_ += temporary_bytes;
  if (host_callback) ++callbacks_;
  ++charges_;
  largest_bytes_ = std::max(largest_bytes_, more_bytes);
  return true;
}

void Account::EndLaunch(std::uint64_t temporary_bytes, bool host_callback) {
  {
    std::lock_guard lock(mutex_);
    used_bytes_ -= temporary_bytes;
    temporary_bytes_ -= temporary_bytes;
    if (host_callback) --callbacks_;
  }
  launch_ended_.notify_all();
}

void Account::ResetPeak() {
  std::lock_guard lock(mutex_);
  peak_bytes_ = used_bytes_;
}

AccountStats Account::Stats() const {
  std::lock_guard lock(mutex_);
  return {used_bytes_, peak_bytes_, temporary_bytes_, limit_bytes_, charges_, largest_bytes_};
}

std::string Account::Refusal(const std::string& purpose, std::uint64_t bytes) const {
  const AccountStats stats = Stats();
  return "tenant '" + tenant_ + "' asks for " + std::to_string(bytes) + " bytes of device " +
         std::to_string(device_) + " for " + purpose + "; it has " +
         std::to_string(stats.used_bytes) + " of the " + std::to_string(stats.limit_bytes) +
         " that MISSILE_PJRT_MEMORY allows, " + std::to_string(stats.temporary_bytes) +
         " of them temporaries of launches in flight";
}

}  // namespace missile::pjrt
