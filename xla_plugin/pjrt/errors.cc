#include "errors.h"

#include <atomic>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "wrapped.h"

namespace missile::pjrt {
namespace {

struct OwnError {
  Code code;
  std::string message;
};

// Those that nobody has ended yet. An error of the plugin's is never read to see whose it is.
class OwnErrors {
 public:
  Error* Add(Code code, std::string message) {
    auto* own = new OwnError{code, std::move(message)};
    auto* error = reinterpret_cast<Error*>(own);
    std::lock_guard lock(mutex_);
    errors_.emplace(error, own);
    count_.store(errors_.size(), std::memory_order_release);
    return error;
  }

  // Null if it is not one of these.
  OwnError* Find(const Error* error) {
    if (count_.load(std::memory_order_acquire) == 0) return nullptr;
    std::lock_guard lock(mutex_);
    auto found = errors_.find(error);
    return found == errors_.end() ? nullptr : found->second;
  }

  bool Remove(const Error* error) {
    if (count_.load(std::memory_order_acquire) == 0) return false;
    std::lock_guard lock(mutex_);
    auto found = errors_.find(error);
    if (found == errors_.end()) return false;
    delete found->second;
    errors_.erase(found);
    count_.store(errors_.size(), std::memory_order_release);
    return true;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<const Error*, OwnError*> errors_;
  std::atomic<std::size_t> count_{0};
};

OwnErrors& Own() {
  static auto* const own = new OwnErrors;  // Never ended: callbacks may come at the very end.
  return *own;
}

void ErrorDestroy(Arguments<Slot::kErrorDestroy>* args) {
  if (Own().Remove(args->error)) return;
  if (wrapped != nullptr) wrapped->Call<Slot::kErrorDestroy>(args);
}

void ErrorMessage(Arguments<Slot::kErrorMessage>* args) {
  if (const OwnError* own = Own().Find(args->error)) {
    args->message = own->message.c_str();
    args->message_size = own->message.size();
  } else if (wrapped != nullptr) {
    wrapped->Call<Slot::kErrorMessage>(args);
  }
}

Error* ErrorGetCode(Arguments<Slot::kErrorGetCode>* args) {
  if (const OwnError* own = Own().Find(args->error)) {
    args->code = static_cast<int>(own->code);
    return nullptr;
  }
  return wrapped != nullptr ? wrapped->Call<Slot::kErrorGetCode>(args) : nullptr;
}

// Own errors have no payload.
Error* ErrorForEachPayload(Arguments<Slot::kErrorForEachPayload>* args) {
  if (Own().Find(args->error) != nullptr) return nullptr;
  return wrapped->Call<Slot::kErrorForEachPayload>(args);
}

}  // namespace

Error* MakeError(Code code, std::string message) {
  return Own().Add(code, "missile: " + std::move(message));
}

void OverrideErrors(Table* table) {
  table->PutVoid<Slot::kErrorDestroy>(ErrorDestroy);
  table->PutVoid<Slot::kErrorMessage>(ErrorMessage);
  table->Put<Slot::kErrorGetCode>(ErrorGetCode);
  table->Override<Slot::kErrorForEachPayload>(ErrorForEachPayload);
}

}  // namespace missile::pjrt
