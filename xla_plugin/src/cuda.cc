#include "cuda.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "no_memory.h"

namespace missile {
namespace {

constexpr CudaResult kOutOfMemory = 2;

std::string PathOrDefault(const std::string& path) {
  if (!path.empty()) return path;
  const char* variable = std::getenv("MISSILE_CUDA_DRIVER");
  return variable != nullptr && *variable != '\0' ? variable : "libcuda.so.1";
}

void* Load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw CudaError("CUDA's driver could not be loaded: " + std::string(dlerror()) +
                    "; it comes with the GPU's driver, and MISSILE_CUDA_DRIVER may name its path");
  }
  return library;
}

// By cuda.h's numbers.
const char* Advice(CudaResult result) {
  switch (result) {
    case kOutOfMemory:
      return "ask for less, or leave more free: XLA takes three quarters of a GPU unless "
             "XLA_PYTHON_CLIENT_PREALLOCATE=false or XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise";
    case 4:  // CUDA_ERROR_DEINITIALIZED
      return "the process is ending: close what uses the GPU before";
    case 46:  // CUDA_ERROR_DEVICE_UNAVAILABLE
      return "another process has the GPU for itself";
    case 100:  // CUDA_ERROR_NO_DEVICE
    case 101:  // CUDA_ERROR_INVALID_DEVICE
      return "see nvidia-smi and CUDA_VISIBLE_DEVICES for the GPUs of this process";
    case 34:  // CUDA_ERROR_STUB_LIBRARY
      return "this library is for linking only: the GPU's driver brings the one to load";
    case 803:  // CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
      return "the driver's library and its kernel module do not fit: update them";
    case 700:  // CUDA_ERROR_ILLEGAL_ADDRESS
    case 709:  // CUDA_ERROR_CONTEXT_IS_DESTROYED
    case 710:  // CUDA_ERROR_ASSERT
    case 715:  // CUDA_ERROR_ILLEGAL_INSTRUCTION
    case 716:  // CUDA_ERROR_MISALIGNED_ADDRESS
    case 719:  // CUDA_ERROR_LAUNCH_FAILED
      return "a kernel went wrong, and its context with it: start the process anew";
    default:
      return "see CUDA's documentation of the driver API";
  }
}

}  // namespace

const CudaDriver& CudaDriver::Open(const std::string& path) {
  // Never destroyed: what is freed last may be so after static objects are gone.
  static std::mutex mutex;
  static auto* opened = new std::map<std::string, std::unique_ptr<CudaDriver>>();
  const std::string full = PathOrDefault(path);
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<CudaDriver>& driver = (*opened)[full];
  if (driver == nullptr) driver = std::make_unique<CudaDriver>(full);
  return *driver;
}

CudaDriver::CudaDriver(const std::string& path) : path_(path), library_(Load(path)) { cuInit(0); }

void* CudaDriver::Find(const char* name) const {
  void* symbol = dlsym(library_, name);
  if (symbol == nullptr) {
    throw CudaError("CUDA's driver " + path_ + " has no function " + name +
                    ": it is older than CUDA 12, or no driver");
  }
  return symbol;
}

void CudaDriver::Throw(const char* call, CudaResult result) const {
  const char* name = nullptr;
  const char* meaning = nullptr;
  const bool known = cuGetErrorName.Try(result, &name) && cuGetErrorString.Try(result, &meaning);
  const std::string message =
      std::string(call) + ": " +
      (known ? std::string(name) + " (" + meaning + ")" : "error " + std::to_string(result)) +
      "; " + Advice(result);
  if (result == kOutOfMemory) throw NoMemory(message);
  throw CudaError(message);
}

}  // namespace missile
