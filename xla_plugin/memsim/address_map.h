// Where in a GPU's memory a physical address lies.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

namespace missile::memsim {

// Bit i of the channel is the parity of `address & masks[i]`.
struct XorChannels {
  std::vector<std::uint64_t> masks;
};

// Granule g lies in channel orders[parities of g / channels][g % channels].
struct PermutedChannels {
  std::uint32_t channels;
  std::vector<std::uint64_t> index_masks;
  std::vector<std::vector<std::uint32_t>> orders;
};

// Granule g lies in channel table[g % size].
struct TableChannels {
  std::uint32_t channels;
  std::vector<std::uint8_t> table;
};

struct Place {
  std::uint32_t channel;
  // Of all banks and of all L2 slices, not of the channel's alone.
  std::uint32_t bank;
  std::uint32_t slice;
  std::uint64_t row;
  // Number of the cache line.
  std::uint64_t line;
};

class AddressMap {
 public:
  using Channels = std::variant<XorChannels, PermutedChannels, TableChannels>;

  // Within a channel, bit i of the bank is the parity of `address & bank_masks[i]`; the row is what
  // is above `row_shift`. Throws std::invalid_argument if the map is none.
  AddressMap(std::uint64_t granule_bytes, Channels channels, std::vector<std::uint64_t> bank_masks,
             int row_shift, std::uint32_t slices_per_channel);

  std::uint32_t channels() const { return count_; }
  std::uint32_t banks() const { return count_ << bank_masks_.size(); }
  std::uint32_t slices() const { return count_ * slices_per_channel_; }
  std::uint32_t ChannelOf(std::uint64_t address) const;
  Place Locate(std::uint64_t address) const;

  static constexpr std::uint64_t kLineBytes = 128;

 private:
  std::uint64_t granule_bytes_;
  Channels channels_;
  std::uint32_t count_ = 0;
  std::vector<std::uint64_t> bank_masks_;
  int row_shift_;
  std::uint32_t slices_per_channel_;
};

}  // namespace missile::memsim
