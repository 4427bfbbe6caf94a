// A device's memory as its tenant sees it.
#pragma once

#include "table.h"

namespace missile::pjrt {

// What the plugin tells is kept where the tenant's account says nothing. Bytes in use are the
// tenant's, the limit is its cap, the pool its arena.
void OverrideMemoryStats(Table* table);

}  // namespace missile::pjrt
