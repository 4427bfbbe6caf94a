// Calls of the wrapper's table, as any caller makes them; an error ends the program.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "../pjrt/wrapped.h"

namespace missile::pjrt::test {

constexpr int kF32 = 11;

// Of the plugin made for the tests: the memory of a buffer.
using Bytes = const std::byte* (*)(const Buffer*);

inline void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "pjrt_test: %s\n", what);
  std::abort();
}

// The wrapper's table, called as any caller does.
class Plugin {
 public:
  explicit Plugin(const Api* api) : table_(api) {}

  template <Slot slot>
  void Call(Question<slot>* question) const {
    Error* error = table_.Call<slot>(question);
    if (error == nullptr) return;
    std::fprintf(stderr, "%s\n", table_.TakeMessage(error).c_str());
    std::abort();
  }
  template <Slot slot>
  std::string Refusal(Question<slot>* question) const {
    Error* error = table_.Call<slot>(question);
    Require(error != nullptr, "a call succeeded that must not");
    return TakeMessage(error);
  }
  // Of an error that came by a callback.
  std::string TakeMessage(Error* error) const { return table_.TakeMessage(error); }

 private:
  const Wrapped table_;
};

inline Client* MakeClient(const Plugin& plugin,
                          const std::vector<std::pair<std::string, std::string>>& in) {
  std::vector<NamedValue> options;
  for (const auto& [name, value] : in) {
    NamedValue option{};
    option.struct_size = sizeof(option);
    option.name = name.c_str();
    option.name_size = name.size();
    option.type = NamedValueType::kString;
    option.string_value = value.c_str();
    option.value_size = value.size();
    options.push_back(option);
  }
  Question<Slot::kClientCreate> create;
  create.options = options.data();
  create.num_options = options.size();
  plugin.Call(&create);
  return create.client;
}

inline LoadedExecutable* Compile(const Plugin& plugin, Client* client, std::string code) {
  Program program{};
  program.struct_size = sizeof(program);
  program.code = code.data();
  program.code_size = code.size();
  program.format = "mlir";
  program.format_size = 4;
  Question<Slot::kClientCompile> compile;
  compile.client = client;
  compile.program = &program;
  plugin.Call(&compile);
  return compile.executable;
}

inline Device* DeviceOf(Client* client) {
  Question<Slot::kClientAddressableDevices> devices;
  devices.client = client;
  wrapped->Call<Slot::kClientAddressableDevices>(&devices);
  return devices.devices[0];
}

inline Question<Slot::kClientBufferFromHostBuffer> UploadOf(Client* client, const float* data,
                                                            const std::int64_t* dims) {
  Question<Slot::kClientBufferFromHostBuffer> upload;
  upload.client = client;
  upload.data = data;
  upload.type = kF32;
  upload.dims = dims;
  upload.num_dims = 1;
  upload.device = DeviceOf(client);
  return upload;
}

inline void Destroy(const Plugin& plugin, Buffer* buffer) {
  Question<Slot::kBufferDestroy> destroy;
  destroy.buffer = buffer;
  plugin.Call(&destroy);
}

inline void DestroyEvent(const Plugin& plugin, Event* event) {
  Question<Slot::kEventDestroy> destroy;
  destroy.event = event;
  plugin.Call(&destroy);
}

inline Buffer* Upload(const Plugin& plugin, Client* client, const std::vector<float>& values) {
  const auto size = static_cast<std::int64_t>(values.size());
  auto upload = UploadOf(client, values.data(), &size);
  plugin.Call(&upload);
  DestroyEvent(plugin, upload.done_with_host_buffer);
  return upload.buffer;
}

// A launch of one argument; waits for its end if `wait`, and asks for no event if not.
inline Buffer* Launch(const Plugin& plugin, LoadedExecutable* loaded, Buffer* argument,
                      std::promise<void>* end) {
  ExecuteOptions options{};
  options.struct_size = sizeof(options);
  Buffer* const arguments[] = {argument};
  Buffer* const* const lists[] = {arguments};
  Buffer* results[] = {nullptr};
  Buffer** const outputs[] = {results};
  Event* complete[] = {nullptr};
  Question<Slot::kLoadedExecutableExecute> execute;
  execute.loaded = loaded;
  execute.options = &options;
  execute.arguments = lists;
  execute.num_devices = 1;
  execute.num_arguments = 1;
  execute.outputs = outputs;
  execute.complete = end != nullptr ? complete : nullptr;
  plugin.Call(&execute);
  if (end != nullptr) {
    Question<Slot::kEventOnReady> ready;
    ready.event = complete[0];
    ready.callback = [](Error* /*error*/, void* user) {
      static_cast<std::promise<void>*>(user)->set_value();
    };
    ready.user = end;
    plugin.Call(&ready);
    DestroyEvent(plugin, complete[0]);
  }
  return results[0];
}

inline void DestroyClient(const Plugin& plugin, Client* client) {
  Question<Slot::kClientDestroy> destroy;
  destroy.client = client;
  plugin.Call(&destroy);
}

inline Memory* MemoryOf(Client* client) {
  Question<Slot::kDeviceDefaultMemory> memory;
  memory.device = DeviceOf(client);
  wrapped->Call<Slot::kDeviceDefaultMemory>(&memory);
  return memory.memory;
}

inline std::int64_t UsedBytes(const Plugin& plugin, Client* client) {
  Question<Slot::kDeviceMemoryStats> stats;
  stats.device = DeviceOf(client);
  plugin.Call(&stats);
  return stats.bytes_in_use;
}

struct Alias {
  Buffer* buffer;
  Fulfilment* fulfilment;
};

inline Alias MakeAlias(const Plugin& plugin, Client* client, std::int64_t length) {
  Question<Slot::kClientCreateAliasBuffer> create;
  create.client = client;
  create.memory = MemoryOf(client);
  create.dims = &length;
  create.num_dims = 1;
  create.type = kF32;
  plugin.Call(&create);
  return {create.alias, create.fulfilment};
}

// The alias shows `shown` from now on.
inline void Fulfill(const Plugin& plugin, Client* client, const Alias& alias, Buffer* shown) {
  Question<Slot::kClientFulfillAliasBuffer> fulfill;
  fulfill.client = client;
  fulfill.buffer = shown;
  fulfill.fulfilment = alias.fulfilment;
  plugin.Call(&fulfill);
}

// Begins a copy of a buffer of as many numbers, and returns its event.
inline Event* ToHost(const Plugin& plugin, Buffer* buffer, std::vector<float>* to) {
  Question<Slot::kBufferToHostBuffer> copy;
  copy.buffer = buffer;
  copy.data = to->data();
  copy.size_bytes = to->size() * sizeof(float);
  plugin.Call(&copy);
  return copy.done;
}

// Waits for an event and ends it. Returns the message of its error; empty for none.
inline std::string Await(const Plugin& plugin, Event* event) {
  struct End {
    const Plugin& plugin;
    std::promise<std::string> message;
  } end{plugin, {}};
  Question<Slot::kEventOnReady> ready;
  ready.event = event;
  ready.callback = [](Error* error, void* user) {
    auto* told = static_cast<End*>(user);
    told->message.set_value(error != nullptr ? told->plugin.TakeMessage(error) : "");
  };
  ready.user = &end;
  plugin.Call(&ready);
  std::string message = end.message.get_future().get();
  DestroyEvent(plugin, event);
  return message;
}

}  // namespace missile::pjrt::test
