// Uploads: from the host into the tenant's arena.
#pragma once

#include "table.h"

namespace missile::pjrt {

// BufferFromHostBuffer copies into the arena and gives a view of it. What can not be placed passes
// through, is charged too, and is counted by the reason.
void OverrideUploads(Table* table);

}  // namespace missile::pjrt
