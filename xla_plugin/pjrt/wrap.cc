// GetPjrtApi: loads the plugin to wrap, copies its table, overrides a few slots.
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "aliases.h"
#include "buffers.h"
#include "errors.h"
#include "launch.h"
#include "memory_stats.h"
#include "programs.h"
#include "statistics.h"
#include "table.h"
#include "tenant.h"
#include "transfers.h"
#include "upload.h"
#include "wrapped.h"

namespace missile::pjrt {
namespace {

// Why there is no plugin: what a table says that has nothing behind it.
std::string* missing = nullptr;

Error* InitializeNothing(Arguments<Slot::kPluginInitialize>* /*args*/) {
  return MakeError(Code::kFailedPrecondition, *missing);
}

Error* CreateNothing(Arguments<Slot::kClientCreate>* /*args*/) {
  return MakeError(Code::kFailedPrecondition, *missing);
}

bool Asked(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && std::string(value) == "1";
}

// Callers keep the table as long as the process lives.
Table* table = nullptr;

const Api* MakeTable() {
  try {
    const char* path = std::getenv("MISSILE_PJRT_LIBRARY");
    if (path == nullptr || *path == '\0') {
      throw std::runtime_error("no plugin to wrap: MISSILE_PJRT_LIBRARY must name its library");
    }
    wrapped = new Wrapped(path);
    table = new Table(wrapped->api());
    OverrideErrors(table);
    OverrideClients(table);
    OverrideUploads(table);
    OverrideBuffers(table);
    OverrideAliases(table);
    OverrideTransfers(table);
    OverrideMemoryStats(table);
    OverridePrograms(table);
    OverrideLaunches(table);
    if (Asked("MISSILE_PJRT_STATISTICS")) {
      table->AddExtension(&MakeStatisticsExtension()->base);
    }
    return table->api();
  } catch (const std::exception& error) {
    missing = new std::string(error.what());
  }
  table = new Table;
  OverrideErrors(table);
  table->Put<Slot::kPluginInitialize>(InitializeNothing);
  table->Put<Slot::kClientCreate>(CreateNothing);
  return table->api();
}

}  // namespace
}  // namespace missile::pjrt

extern "C" __attribute__((visibility("default"))) const missile::pjrt::Api* GetPjrtApi() {
  static const missile::pjrt::Api* const kTable = missile::pjrt::MakeTable();
  return kTable;
}
