#include "programs.h"

#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "statistics.h"
#include "wrapped.h"

namespace missile::pjrt {
namespace {

std::atomic<std::uint64_t> last_number{0};

class Programs {
 public:
  void Add(const LoadedExecutable* loaded, std::shared_ptr<LoadedProgram> program) {
    std::unique_lock lock(mutex_);
    programs_[loaded] = std::move(program);
  }
  std::shared_ptr<LoadedProgram> Remove(const LoadedExecutable* loaded) {
    std::unique_lock lock(mutex_);
    auto found = programs_.find(loaded);
    if (found == programs_.end()) return nullptr;
    std::shared_ptr<LoadedProgram> program = std::move(found->second);
    programs_.erase(found);
    return program;
  }
  std::shared_ptr<LoadedProgram> Find(const LoadedExecutable* loaded) {
    std::shared_lock lock(mutex_);
    auto found = programs_.find(loaded);
    return found == programs_.end() ? nullptr : found->second;
  }

 private:
  std::shared_mutex mutex_;
  std::unordered_map<const LoadedExecutable*, std::shared_ptr<LoadedProgram>> programs_;
};

Programs& All() {
  static auto* const all = new Programs;  // Never ended: callbacks may come at the very end.
  return *all;
}

// What a program's text or bytecode has in it. MLIR's bytecode keeps names as they are.
bool Mentions(std::string_view code, std::string_view word) {
  return code.find(word) != std::string_view::npos;
}

// The optimised program, which says what was donated in the end.
bool AskDonations(Executable* executable, Donations* donations) {
  Program program{};
  program.struct_size = sizeof(program);
  Question<Slot::kExecutableOptimizedProgram> question;
  question.executable = executable;
  question.program = &program;
  if (!Ask(&question)) return false;  // Its size.
  std::string code(program.code_size, '\0');
  program.code = code.data();
  if (!Ask(&question)) return false;  // The bytes.
  const std::string_view format(program.format, program.format_size);
  std::optional<Donations> read = ReadDonations(code, format == "hlo_with_config");
  if (!read.has_value()) return false;
  *donations = *std::move(read);
  return true;
}

// Of what was compiled, `code` is the source; of what was loaded, it is empty.
void Learn(LoadedExecutable* loaded, Client* client, std::string_view code) {
  auto program = std::make_shared<LoadedProgram>();
  program->tenant = FindTenant(client);
  if (program->tenant == nullptr) return;
  Question<Slot::kLoadedExecutableAddressableDevices> devices;
  devices.loaded = loaded;
  if (Ask(&devices)) {
    for (std::size_t i = 0; i < devices.num_devices; ++i) {
      program->devices.push_back(FindDevice(devices.devices[i]));
    }
  }
  // The names of JAX's own, and no function's of a program that lies along its source.
  program->host_callback =
      Mentions(code, "python_cpu_callback") || Mentions(code, "python_gpu_callback");

  Question<Slot::kLoadedExecutableGetExecutable> get;
  get.loaded = loaded;
  if (!Ask(&get)) return;
  Question<Slot::kExecutableNumOutputs> outputs;
  outputs.executable = get.executable;
  if (Ask(&outputs)) program->num_outputs = outputs.num_outputs;
  Question<Slot::kExecutableGetCompiledMemoryStats> sizes;
  sizes.executable = get.executable;
  if (Ask(&sizes)) {
    program->output_bytes = static_cast<std::uint64_t>(sizes.output_bytes);
    program->temporary_bytes = static_cast<std::uint64_t>(sizes.temp_bytes);
  } else {
    Count(statistics.programs_without_sizes);
  }
  if (code.empty() || Mentions(code, "buffer_donor") || Mentions(code, "aliasing_output")) {
    program->donations_known = AskDonations(get.executable, &program->donations);
    if (!program->donations_known) Count(statistics.programs_without_donations);
  }
  Question<Slot::kExecutableDestroy> destroy;
  destroy.executable = get.executable;
  Ask(&destroy);
  All().Add(loaded, std::move(program));
}

Error* ClientCompile(Arguments<Slot::kClientCompile>* args) {
  Error* error = wrapped->Call<Slot::kClientCompile>(args);
  if (error == nullptr) {
    const std::string_view format(args->program->format, args->program->format_size);
    const std::string_view code(args->program->code, args->program->code_size);
    Learn(args->executable, args->client, format == "mlir" ? code : std::string_view());
  }
  return error;
}

Error* DeserializeAndLoad(Arguments<Slot::kExecutableDeserializeAndLoad>* args) {
  Error* error = wrapped->Call<Slot::kExecutableDeserializeAndLoad>(args);
  if (error == nullptr) Learn(args->loaded, args->client, {});
  return error;
}

Error* ClientLoad(Arguments<Slot::kClientLoad>* args) {
  Error* error = wrapped->Call<Slot::kClientLoad>(args);
  if (error == nullptr) Learn(args->loaded, args->client, {});
  return error;
}

Error* LoadedExecutableDestroy(Arguments<Slot::kLoadedExecutableDestroy>* args) {
  All().Remove(args->loaded);
  return wrapped->Call<Slot::kLoadedExecutableDestroy>(args);
}

}  // namespace

LoadedProgram::LoadedProgram() : number(++last_number) { Count(statistics.executables_made); }

LoadedProgram::~LoadedProgram() { Count(statistics.executables_ended); }

std::shared_ptr<LoadedProgram> FindProgram(const LoadedExecutable* loaded) {
  return All().Find(loaded);
}

void OverridePrograms(Table* table) {
  table->Override<Slot::kClientCompile>(ClientCompile);
  table->Override<Slot::kExecutableDeserializeAndLoad>(DeserializeAndLoad);
  table->Override<Slot::kClientLoad>(ClientLoad);
  table->Override<Slot::kLoadedExecutableDestroy>(LoadedExecutableDestroy);
}

}  // namespace missile::pjrt
