#include "arguments.h"

#include <algorithm>
#include <cstring>

namespace missile::pjrt {

template <typename T>
Copied<T>::Copied(const T* original)
    : words_((std::max(original->struct_size, sizeof(T)) + sizeof(std::uint64_t) - 1) /
             sizeof(std::uint64_t)) {
  std::memcpy(words_.data(), original, original->struct_size);
}

template class Copied<ExecuteArgs>;
template class Copied<ExecuteOptions>;

ExecuteArgs* LaunchArguments::Change() {
  if (args_.empty()) args_.emplace_back(original_);
  return args_.front().get();
}

void LaunchArguments::KeepFromDonation(const std::vector<std::int64_t>& arguments) {
  if (arguments.empty()) return;
  options_.emplace_back(original_->options);
  ExecuteOptions* options = options_.front().get();
  kept_.assign(options->non_donatable, options->non_donatable + options->num_non_donatable);
  kept_.insert(kept_.end(), arguments.begin(), arguments.end());
  options->non_donatable = kept_.data();
  options->num_non_donatable = kept_.size();
  Change()->options = options;
}

void LaunchArguments::AskForEvents(Event** events) { Change()->complete = events; }

}  // namespace missile::pjrt
