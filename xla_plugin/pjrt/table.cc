#include "table.h"

#include <cstring>

namespace missile::pjrt {
namespace {

constexpr std::size_t kHeadWords = sizeof(Api) / sizeof(void*);

}  // namespace

Table::Table(const Api* api) : words_((api->struct_size + sizeof(void*) - 1) / sizeof(void*)) {
  std::memcpy(static_cast<void*>(words_.data()), api, api->struct_size);
}

Table::Table() : words_(kHeadWords + static_cast<std::size_t>(Slot::kCount)) {
  auto* api = reinterpret_cast<Api*>(words_.data());
  api->struct_size = words_.size() * sizeof(void*);
  api->version.struct_size = sizeof(ApiVersion);
  api->version.minor = 114;  // The version whose slots are listed.
}

void Table::Set(Slot slot, void* function, bool always) {
  const std::size_t word = kHeadWords + static_cast<std::size_t>(slot);
  if (word < words_.size() && (always || words_[word] != nullptr)) words_[word] = function;
}

void Table::AddExtension(Extension* extension) {
  auto* api = reinterpret_cast<Api*>(words_.data());
  extension->next = api->extensions;
  api->extensions = extension;
}

}  // namespace missile::pjrt
