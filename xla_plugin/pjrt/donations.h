// Which arguments a program may take the memory of.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace missile::pjrt {

struct Donations {
  // Parameters, ascending: those whose memory becomes an output's, and all that may be taken.
  std::vector<std::int64_t> aliased;
  std::vector<std::int64_t> all;
};

// From XLA's HloModuleProto, or HloModuleProtoWithConfig if `with_config`: what it says of aliases
// and donors. Nothing if it is no such message.
std::optional<Donations> ReadDonations(std::string_view message, bool with_config);

}  // namespace missile::pjrt
