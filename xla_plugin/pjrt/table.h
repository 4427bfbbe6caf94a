// The table that callers get: a copy of the wrapped one, with some slots overridden.
#pragma once

#include <cstddef>
#include <vector>

#include "api.h"

namespace missile::pjrt {

class Table {
 public:
  // Everything as `api` has it: its version, its extensions, slots that are not known here.
  explicit Table(const Api* api);
  // Without a plugin: empty slots.
  Table();
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  // Slots that the plugin does not have stay empty.
  template <Slot slot>
  void Override(Error* (*function)(Arguments<slot>*)) {
    Set(slot, reinterpret_cast<void*>(function), false);
  }
  // Also where there is nothing to override.
  template <Slot slot>
  void Put(Error* (*function)(Arguments<slot>*)) {
    Set(slot, reinterpret_cast<void*>(function), true);
  }
  template <Slot slot>
  void PutVoid(void (*function)(Arguments<slot>*)) {
    Set(slot, reinterpret_cast<void*>(function), true);
  }
  // In front of the chain. `extension` lives as long as the process.
  void AddExtension(Extension* extension);

  const Api* api() const { return reinterpret_cast<const Api*>(words_.data()); }

 private:
  void Set(Slot slot, void* function, bool always);

  std::vector<void*> words_;  // The table's bytes, aligned as pointers are.
};

}  // namespace missile::pjrt
