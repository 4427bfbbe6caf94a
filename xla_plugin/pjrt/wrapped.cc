#include "wrapped.h"

#include <dlfcn.h>

#include <stdexcept>

namespace missile::pjrt {

const Wrapped* wrapped = nullptr;

namespace {

constexpr int kMajor = 0;
// The first version whose layout of Execute's arguments is the one declared here.
constexpr int kOldestMinor = 60;

}  // namespace

Wrapped::Wrapped(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw std::runtime_error("the plugin to wrap could not be loaded: " + std::string(dlerror()));
  }
  auto get = reinterpret_cast<const Api* (*)()>(dlsym(library, "GetPjrtApi"));
  if (get == nullptr) {
    throw std::runtime_error("the plugin to wrap, " + path +
                             ", is no PJRT plugin: it has no function GetPjrtApi");
  }
  api_ = get();
  if (api_ == nullptr) {
    throw std::runtime_error("the plugin to wrap, " + path + ", gave no table");
  }
  const ApiVersion& version = api_->version;
  if (version.major != kMajor || version.minor < kOldestMinor) {
    throw std::runtime_error("the plugin to wrap, " + path + ", has version " +
                             std::to_string(version.major) + "." + std::to_string(version.minor) +
                             " of the PJRT C API, and must have 0." + std::to_string(kOldestMinor) +
                             " or a later 0.x");
  }
}

std::size_t Wrapped::num_slots() const { return (api_->struct_size - sizeof(Api)) / sizeof(void*); }

void* Wrapped::Find(Slot slot) const {
  const auto index = static_cast<std::size_t>(slot);
  if (index >= num_slots()) return nullptr;
  return reinterpret_cast<void* const*>(api_ + 1)[index];
}

void Wrapped::Drop(Error* error) const {
  if (error == nullptr) return;
  Question<Slot::kErrorDestroy> destroy;
  destroy.error = error;
  Call<Slot::kErrorDestroy>(&destroy);
}

std::string Wrapped::TakeMessage(Error* error) const {
  Question<Slot::kErrorMessage> message;
  message.error = error;
  Call<Slot::kErrorMessage>(&message);
  std::string text(message.message, message.message_size);
  Drop(error);
  return text;
}

}  // namespace missile::pjrt
