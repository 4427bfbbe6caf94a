// The plugin that is wrapped: its library, its table, and calls of it.
#pragma once

#include <string>
#include <utility>

#include "api.h"

namespace missile::pjrt {

// Plugins refuse arguments that are shorter than those they were built with, and write all output
// fields that they know of. So what the wrapper asks by itself has room for fields to come.
inline constexpr std::size_t kSlackBytes = 192;

template <Slot slot>
struct Question : Arguments<slot> {
  Question() : Arguments<slot>{} { this->struct_size = sizeof(Question); }
  char slack[kSlackBytes] = {};
};

class Wrapped {
 public:
  // Loads it, for the rest of the process. Throws std::runtime_error that says what is wrong.
  explicit Wrapped(const std::string& path);
  explicit Wrapped(const Api* api) : api_(api) {}

  const Api* api() const { return api_; }
  std::size_t num_slots() const;
  // Null if the plugin is too old to have the slot, or leaves it empty.
  void* Find(Slot slot) const;
  bool Has(Slot slot) const { return Find(slot) != nullptr; }

  // Calls a slot that is there. What it returns is the plugin's error, or null.
  template <Slot slot>
  Error* Call(Arguments<slot>* args) const {
    return reinterpret_cast<Error* (*)(Arguments<slot>*)>(Find(slot))(args);
  }

  // Ends an error that nobody is to see.
  void Drop(Error* error) const;
  // Its text; the error is ended.
  std::string TakeMessage(Error* error) const;

 private:
  const Api* api_ = nullptr;
};

// The plugin that this process wraps. Set once, before the table is handed out.
extern const Wrapped* wrapped;

// Asks the plugin; an error becomes false. For questions whose failure has no consequence but that
// something is not known.
template <Slot slot>
bool Ask(Question<slot>* question) {
  if (!wrapped->Has(slot)) return false;
  Error* error = wrapped->Call<slot>(question);
  if (error == nullptr) return true;
  wrapped->Drop(error);
  return false;
}

}  // namespace missile::pjrt
