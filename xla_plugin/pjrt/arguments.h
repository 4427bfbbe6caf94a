// Execute's arguments, copied where they have to be changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "api.h"

namespace missile::pjrt {

using ExecuteArgs = Arguments<Slot::kLoadedExecutableExecute>;

// A caller's structure, as long as the caller's is: fields that are not known here come along.
template <typename T>
class Copied {
 public:
  explicit Copied(const T* original);
  T* get() { return reinterpret_cast<T*>(words_.data()); }

 private:
  std::vector<std::uint64_t> words_;
};

// What a launch is called with instead of a caller's arguments, with nothing changed at first.
// The results and events go where the caller wants them: they are behind pointers.
class LaunchArguments {
 public:
  explicit LaunchArguments(ExecuteArgs* original) : original_(original) {}

  // Adds to the arguments whose memory is not to be taken.
  void KeepFromDonation(const std::vector<std::int64_t>& arguments);
  // Events of the devices' ends, for a caller that wants none.
  void AskForEvents(Event** events);
  ExecuteArgs* get() { return args_.empty() ? original_ : args_.front().get(); }

 private:
  ExecuteArgs* Change();

  ExecuteArgs* const original_;
  std::vector<Copied<ExecuteArgs>> args_;  // At most one: made when it is needed.
  std::vector<Copied<ExecuteOptions>> options_;
  std::vector<std::int64_t> kept_;
};

}  // namespace missile::pjrt
