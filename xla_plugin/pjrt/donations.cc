#include "donations.h"

#include <algorithm>

namespace missile::pjrt {
namespace {

// The numbers of fields in xla/service/hlo.proto.
constexpr std::uint64_t kConfigModule = 1;    // HloModuleProtoWithConfig.hlo_module
constexpr std::uint64_t kModuleAliases = 8;   // HloModuleProto.input_output_alias
constexpr std::uint64_t kModuleDonors = 18;   // HloModuleProto.buffer_donor
constexpr std::uint64_t kEntries = 1;         // .entries of both
constexpr std::uint64_t kAliasParameter = 2;  // AliasEntryProto.parameter_number
constexpr std::uint64_t kDonorParameter = 1;  // BufferDonorEntryProto.parameter_number

struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;  // Of a varint.
  std::string_view bytes;   // Of what has a length.
};

// Protocol buffers' wire format, as far as it is needed to find fields.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  // Returns whether there is one more field. ok() is false if what is there is none.
  bool Next(Field* field) {
    if (bytes_.empty() || !ok_) return false;
    const std::uint64_t tag = Varint();
    *field = {tag >> 3, 0, {}};
    switch (tag & 7) {
      case 0:
        field->value = Varint();
        break;
      case 1:
        Take(8);
        break;
      case 2:
        field->bytes = Take(Varint());
        break;
      case 5:
        Take(4);
        break;
      default:
        ok_ = false;
    }
    return ok_;
  }
  bool ok() const { return ok_; }

 private:
  std::uint64_t Varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) break;
      const auto byte = static_cast<unsigned char>(bytes_.front());
      bytes_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    ok_ = false;
    return 0;
  }
  std::string_view Take(std::uint64_t size) {
    if (size > bytes_.size()) {
      ok_ = false;
      return {};
    }
    std::string_view taken = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return taken;
  }

  std::string_view bytes_;
  bool ok_ = true;
};

// The parameters that entries name, 0 where they leave it out.
bool ReadEntries(std::string_view message, std::uint64_t parameter_field,
                 std::vector<std::int64_t>* parameters) {
  Reader entries(message);
  for (Field entry; entries.Next(&entry);) {
    if (entry.number != kEntries) continue;
    std::int64_t parameter = 0;
    Reader fields(entry.bytes);
    for (Field field; fields.Next(&field);) {
      if (field.number == parameter_field) parameter = static_cast<std::int64_t>(field.value);
    }
    if (!fields.ok()) return false;
    parameters->push_back(parameter);
  }
  return entries.ok();
}

void SortUnique(std::vector<std::int64_t>* numbers) {
  std::sort(numbers->begin(), numbers->end());
  numbers->erase(std::unique(numbers->begin(), numbers->end()), numbers->end());
}

}  // namespace

std::optional<Donations> ReadDonations(std::string_view message, bool with_config) {
  if (with_config) {
    Reader outer(message);
    for (Field field; outer.Next(&field);) {
      if (field.number == kConfigModule) return ReadDonations(field.bytes, false);
    }
    return std::nullopt;
  }
  Donations donations;
  std::vector<std::int64_t> donors;
  Reader module(message);
  for (Field field; module.Next(&field);) {
    if (field.number == kModuleAliases &&
        !ReadEntries(field.bytes, kAliasParameter, &donations.aliased)) {
      return std::nullopt;
    }
    if (field.number == kModuleDonors && !ReadEntries(field.bytes, kDonorParameter, &donors)) {
      return std::nullopt;
    }
  }
  if (!module.ok()) return std::nullopt;
  SortUnique(&donations.aliased);
  donations.all = donations.aliased;
  donations.all.insert(donations.all.end(), donors.begin(), donors.end());
  SortUnique(&donations.all);
  return donations;
}

}  // namespace missile::pjrt
