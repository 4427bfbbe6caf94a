// Alias buffers: handles that a caller gets before there is a buffer for them to show.
#pragma once

#include "table.h"

namespace missile::pjrt {

// An alias has no bytes of its own, so nothing is charged for it. It and every launch that takes
// it, even before it is fulfilled, hold the block of the view that it comes to show.
void OverrideAliases(Table* table);

}  // namespace missile::pjrt
