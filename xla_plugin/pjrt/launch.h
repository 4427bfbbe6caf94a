// Launches: admitted by the account, let through by the gate, followed until their end.
#pragma once

#include "table.h"

namespace missile::pjrt {

void OverrideLaunches(Table* table);

}  // namespace missile::pjrt
