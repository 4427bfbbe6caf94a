// Which channel each granule of an arena lies in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace missile {

// Channels in ascending order, each once.
using Channels = std::vector<std::uint8_t>;

// The channels of one page's granules, and the granules sorted by channel: a granule's *rank* is
// its place in that order.
struct PageColours {
  std::vector<std::uint8_t> channel;  // [granules]
  std::vector<std::uint16_t> rank;    // [granules]
  std::vector<std::uint16_t> sorted;  // [granules], by rank
  std::vector<std::uint32_t> first;   // [channels + 1], the first rank of each channel
};

// Pages that look alike share one PageColours: of an XOR map there are at most as many as channels.
class ChannelMap {
 public:
  // colours: [pages, granules_per_page], row-major, the channel of each granule. Granules have
  // `granule_bytes`, a power of two from 64 to a page's bytes, of which a page has a whole number.
  // Throws std::invalid_argument.
  ChannelMap(const std::uint8_t* colours, std::size_t pages, std::size_t granules_per_page,
             std::uint64_t granule_bytes, std::uint32_t channels);

  std::size_t pages() const { return colours_of_.size(); }
  std::uint32_t channels() const { return channels_; }
  std::uint32_t granules_per_page() const { return 1U << granules_log2_; }
  std::size_t PageOf(std::uint32_t granule) const { return granule >> granules_log2_; }
  std::uint32_t PlaceOf(std::uint32_t granule) const {
    return granule & ((1U << granules_log2_) - 1);
  }
  std::uint64_t granule_bytes() const { return granule_bytes_; }
  const PageColours& page(std::size_t index) const { return *colours_of_[index]; }
  // Throws std::invalid_argument unless the channels are ascending, there, and at least one.
  void Expect(const Channels& channels) const;

 private:
  PageColours Sorted(const std::uint8_t* row, std::size_t page) const;

  const std::uint64_t granule_bytes_;
  const int granules_log2_;  // Of a page.
  const std::uint32_t channels_;
  std::deque<PageColours> kinds_;
  std::vector<const PageColours*> colours_of_;
};

}  // namespace missile
