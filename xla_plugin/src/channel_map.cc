#include "channel_map.h"

#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>

#include "region.h"

namespace missile {
namespace {

constexpr std::uint64_t kLeastGranuleBytes = 64;
constexpr std::uint32_t kMostChannels = 256;

std::uint64_t CheckedGranule(std::uint64_t granule_bytes) {
  const bool power = granule_bytes != 0 && (granule_bytes & (granule_bytes - 1)) == 0;
  if (!power || granule_bytes < kLeastGranuleBytes || granule_bytes > kPageBytes) {
    throw std::invalid_argument("channel map: granules have " + std::to_string(granule_bytes) +
                                " bytes, and must have a power of two from " +
                                std::to_string(kLeastGranuleBytes) + " to " +
                                std::to_string(kPageBytes));
  }
  return granule_bytes;
}

std::uint32_t CheckedChannels(std::uint32_t channels) {
  if (channels == 0 || channels > kMostChannels) {
    throw std::invalid_argument("channel map: it has " + std::to_string(channels) +
                                " channels, and must have 1 to " + std::to_string(kMostChannels));
  }
  return channels;
}

}  // namespace

ChannelMap::ChannelMap(const std::uint8_t* colours, std::size_t pages,
                       std::size_t granules_per_page, std::uint64_t granule_bytes,
                       std::uint32_t channels)
    : granule_bytes_(CheckedGranule(granule_bytes)),
      granules_log2_(__builtin_ctzll(kPageBytes / granule_bytes_)),
      channels_(CheckedChannels(channels)) {
  if (granules_per_page != this->granules_per_page()) {
    throw std::invalid_argument("channel map: its pages have " + std::to_string(granules_per_page) +
                                " granules, and a page has " +
                                std::to_string(this->granules_per_page()) + " of " +
                                std::to_string(granule_bytes_) + " bytes");
  }
  const std::uint32_t granules = this->granules_per_page();
  // Tables name granules in 31 bits, those of an array of int32.
  const std::size_t most = (std::size_t{1} << 31) / granules;
  if (pages == 0 || pages > most) {
    throw std::invalid_argument("channel map: it has " + std::to_string(pages) +
                                " pages, and must have 1 to " + std::to_string(most));
  }
  std::unordered_map<std::string_view, const PageColours*> seen;
  colours_of_.reserve(pages);
  for (std::size_t page = 0; page < pages; ++page) {
    const std::uint8_t* row = colours + page * granules;
    const std::string_view key(reinterpret_cast<const char*>(row), granules);
    const PageColours*& colours_of_row = seen[key];
    if (colours_of_row == nullptr) {
      kinds_.push_back(Sorted(row, page));
      colours_of_row = &kinds_.back();
    }
    colours_of_.push_back(colours_of_row);
  }
}

PageColours ChannelMap::Sorted(const std::uint8_t* row, std::size_t page) const {
  const std::uint32_t granules = granules_per_page();
  PageColours made;
  made.channel.assign(row, row + granules);
  made.rank.resize(granules);
  made.sorted.resize(granules);
  made.first.assign(channels_ + 1, 0);
  for (std::uint32_t granule = 0; granule < granules; ++granule) {
    if (row[granule] >= channels_) {
      throw std::invalid_argument("channel map: granule " + std::to_string(granule) + " of page " +
                                  std::to_string(page) + " lies in channel " +
                                  std::to_string(row[granule]) + ", and there are " +
                                  std::to_string(channels_));
    }
    ++made.first[row[granule] + 1U];
  }
  for (std::uint32_t channel = 0; channel < channels_; ++channel) {
    made.first[channel + 1] += made.first[channel];
  }
  std::vector<std::uint32_t> next(made.first.begin(), made.first.end() - 1);
  for (std::uint32_t granule = 0; granule < granules; ++granule) {
    const std::uint32_t rank = next[row[granule]]++;
    made.rank[granule] = static_cast<std::uint16_t>(rank);
    made.sorted[rank] = static_cast<std::uint16_t>(granule);
  }
  return made;
}

void ChannelMap::Expect(const Channels& channels) const {
  if (channels.empty()) throw std::invalid_argument("granules: no channel was named");
  int before = -1;
  for (const std::uint8_t channel : channels) {
    if (channel <= before || channel >= channels_) {
      throw std::invalid_argument("granules: channel " + std::to_string(channel) +
                                  " was named; channels are ascending and below " +
                                  std::to_string(channels_));
    }
    before = channel;
  }
}

}  // namespace missile
