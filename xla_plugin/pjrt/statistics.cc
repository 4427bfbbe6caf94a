#include "statistics.h"

namespace missile::pjrt {

Statistics statistics;

namespace {

bool Read(std::size_t index, const char** name, std::int64_t* value) {
  struct Entry {
    const char* name;
    const std::atomic<std::int64_t>* count;
  };
  static const Entry kEntries[] = {
#define MISSILE_PJRT_ENTRY(name) {#name, &statistics.name},
      MISSILE_PJRT_COUNTS(MISSILE_PJRT_ENTRY)
#undef MISSILE_PJRT_ENTRY
  };
  if (index >= sizeof(kEntries) / sizeof(kEntries[0])) return false;
  *name = kEntries[index].name;
  *value = kEntries[index].count->load(std::memory_order_relaxed);
  return true;
}

}  // namespace

StatisticsExtension* MakeStatisticsExtension() {
  static StatisticsExtension extension{{sizeof(StatisticsExtension), kStatisticsType, nullptr},
                                       Read};
  return &extension;
}

}  // namespace missile::pjrt
