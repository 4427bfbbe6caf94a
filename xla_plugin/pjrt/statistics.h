// What the wrapper did in this process, in numbers.
#pragma once

#include <atomic>
#include <cstdint>

#include "api.h"

namespace missile::pjrt {

// Names as they are told. Objects are counted when they are made and when they end, so that what is
// left of them shows.
// clang-format off
#define MISSILE_PJRT_COUNTS(F) \
  F(uploads_placed)             /* Into the arena. */ \
  F(uploads_placed_bytes) \
  F(uploads_linked_bytes)       /* Of these, what went over the link. */ \
  F(uploads_passed_off)         /* To the plugin: there is no arena. */ \
  F(uploads_passed_empty)       /* No bytes. */ \
  F(uploads_passed_type)        /* Packed, or of a type that is not known. */ \
  F(uploads_passed_memory)      /* Into another memory than the device's own. */ \
  F(uploads_passed_layout)      /* Tiled, or in another way not to be copied to. */ \
  F(uploads_passed_semantics)   /* The caller wants to share its memory. */ \
  F(uploads_passed_full)        /* The arena has no room. */ \
  F(uploads_passed_colours)     /* The tenant may not have all colours, as a block does. */ \
  F(uploads_passed_view)        /* The plugin makes no view of it. */ \
  F(views_kept_from_donation)   /* Donated by the program, marked non-donatable. */ \
  F(launches) \
  F(launches_refused_memory) \
  F(launches_refused_late) \
  F(buffers_refused) \
  F(programs_without_sizes)     /* Temporaries not known to the plugin. */ \
  F(programs_without_donations) /* Donations not told by the plugin. */ \
  F(tenants_made) F(tenants_ended) \
  F(placements_made) F(placements_ended) \
  F(records_made) F(records_ended) \
  F(launches_made) F(launches_ended) \
  F(executables_made) F(executables_ended) \
  F(managers_made) F(managers_ended) \
  F(reads_made) F(reads_ended)  /* Copies that read a block of the arena. */
// clang-format on

struct Statistics {
#define MISSILE_PJRT_COUNT(name) std::atomic<std::int64_t> name{0};
  MISSILE_PJRT_COUNTS(MISSILE_PJRT_COUNT)
#undef MISSILE_PJRT_COUNT
};

extern Statistics statistics;

inline void Count(std::atomic<std::int64_t>& count, std::int64_t by = 1) {
  count.fetch_add(by, std::memory_order_relaxed);
}

// In the table's chain if it was asked for. The type is "MSLE" in ASCII.
inline constexpr int kStatisticsType = 0x4d534c45;

// `read`: name and value of count `index`; false behind the last.
struct StatisticsExtension {
  Extension base;
  bool (*read)(std::size_t index, const char** name, std::int64_t* value);
};

StatisticsExtension* MakeStatisticsExtension();

}  // namespace missile::pjrt
