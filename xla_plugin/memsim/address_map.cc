#include "address_map.h"

#include <stdexcept>
#include <utility>

namespace missile::memsim {
namespace {

std::uint32_t Parities(std::uint64_t value, const std::vector<std::uint64_t>& masks) {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < masks.size(); ++i) {
    bits |= static_cast<std::uint32_t>(__builtin_parityll(value & masks[i])) << i;
  }
  return bits;
}

void Require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

std::uint32_t CountOf(const XorChannels& map) {
  Require(map.masks.size() <= 8, "an XOR map has at most 8 masks");
  return 1U << map.masks.size();
}

std::uint32_t CountOf(const PermutedChannels& map) {
  Require(map.channels > 0 && map.channels <= 256, "channels must be 1 to 256");
  Require(map.index_masks.size() <= 8, "there may be at most 8 index masks");
  Require(map.orders.size() == std::size_t{1} << map.index_masks.size(),
          "there must be 2 ** len(index_masks) permutations");
  for (const auto& order : map.orders) {
    Require(order.size() == map.channels, "a permutation must hold each channel once");
    std::vector<bool> seen(map.channels);
    for (const std::uint32_t channel : order) {
      Require(channel < map.channels && !seen[channel],
              "a permutation must hold each channel once");
      seen[channel] = true;
    }
  }
  return map.channels;
}

std::uint32_t CountOf(const TableChannels& map) {
  Require(map.channels > 0 && map.channels <= 256, "channels must be 1 to 256");
  Require(!map.table.empty(), "the table must not be empty");
  for (const std::uint8_t channel : map.table) {
    Require(channel < map.channels, "the table holds a channel that there is not");
  }
  return map.channels;
}

std::uint32_t Channel(const XorChannels& map, std::uint64_t address, std::uint64_t /*granule*/) {
  return Parities(address, map.masks);
}

std::uint32_t Channel(const PermutedChannels& map, std::uint64_t /*address*/,
                      std::uint64_t granule) {
  const std::uint64_t group = granule / map.channels;
  return map.orders[Parities(group, map.index_masks)][granule % map.channels];
}

std::uint32_t Channel(const TableChannels& map, std::uint64_t /*address*/, std::uint64_t granule) {
  return map.table[granule % map.table.size()];
}

}  // namespace

AddressMap::AddressMap(std::uint64_t granule_bytes, Channels channels,
                       std::vector<std::uint64_t> bank_masks, int row_shift,
                       std::uint32_t slices_per_channel)
    : granule_bytes_(granule_bytes),
      channels_(std::move(channels)),
      bank_masks_(std::move(bank_masks)),
      row_shift_(row_shift),
      slices_per_channel_(slices_per_channel) {
  Require(granule_bytes > 0, "granule_bytes must be positive");
  Require(bank_masks_.size() <= 8, "there may be at most 8 bank masks");
  Require(row_shift >= 7 && row_shift < 64, "row_shift must be 7 to 63");
  Require(slices_per_channel >= 1 && slices_per_channel <= 16,
          "slices_per_channel must be 1 to 16");
  count_ = std::visit([](const auto& map) { return CountOf(map); }, channels_);
}

std::uint32_t AddressMap::ChannelOf(std::uint64_t address) const {
  const std::uint64_t granule = address / granule_bytes_;
  return std::visit([&](const auto& map) { return Channel(map, address, granule); }, channels_);
}

Place AddressMap::Locate(std::uint64_t address) const {
  const std::uint32_t channel = ChannelOf(address);
  const std::uint64_t line = address / kLineBytes;
  const std::uint32_t bank = (channel << bank_masks_.size()) | Parities(address, bank_masks_);
  const auto slice =
      channel * slices_per_channel_ + static_cast<std::uint32_t>(line % slices_per_channel_);
  return {channel, bank, slice, address >> row_shift_, line};
}

}  // namespace missile::memsim
