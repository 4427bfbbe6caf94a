// CUDA's driver, loaded when it is first asked for: neither its library nor its headers are needed
// to build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace missile {

using CudaResult = int;
using CudaAddress = unsigned long long;  // In a device's memory.
using CudaContext = struct CUctx_st*;
using CudaStreamHandle = struct CUstream_st*;
using CudaEventHandle = struct CUevent_st*;

// A call that failed, and what to do about it. One that lacked memory throws NoMemory instead.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class CudaDriver;

// A function of the driver, which throws where the driver's own returns a code.
template <typename... Arguments>
class CudaCall {
 public:
  CudaCall(const CudaDriver& driver, const char* name);

  void operator()(Arguments... arguments) const;
  // Whether it went well: for destructors, and where failure is an answer.
  bool Try(Arguments... arguments) const noexcept { return function_(arguments...) == 0; }

 private:
  const CudaDriver& driver_;
  const char* const name_;
  CudaResult (*const function_)(Arguments...);
};

// Lives as long as the process: a driver is not made to be unloaded.
class CudaDriver {
 public:
  // The one at `path`; if that is empty, at $MISSILE_CUDA_DRIVER, or else the system's. Throws
  // CudaError if there is none, it lacks a function, or it does not start.
  static const CudaDriver& Open(const std::string& path);

  explicit CudaDriver(const std::string& path);
  CudaDriver(const CudaDriver&) = delete;
  CudaDriver& operator=(const CudaDriver&) = delete;

  // Throws CudaError.
  void* Find(const char* name) const;
  [[noreturn]] void Throw(const char* call, CudaResult result) const;

 private:
  const std::string path_;
  void* const library_;

  // The names are those of the library, to which CUDA's headers map the plain ones.
 public:
  const CudaCall<unsigned> cuInit{*this, "cuInit"};
  const CudaCall<int*> cuDeviceGetCount{*this, "cuDeviceGetCount"};
  const CudaCall<int*, int> cuDeviceGet{*this, "cuDeviceGet"};
  const CudaCall<CudaContext*, int> cuDevicePrimaryCtxRetain{*this, "cuDevicePrimaryCtxRetain"};
  const CudaCall<int> cuDevicePrimaryCtxRelease{*this, "cuDevicePrimaryCtxRelease_v2"};
  const CudaCall<CudaContext> cuCtxPushCurrent{*this, "cuCtxPushCurrent_v2"};
  const CudaCall<CudaContext*> cuCtxPopCurrent{*this, "cuCtxPopCurrent_v2"};

  const CudaCall<CudaAddress*, std::size_t> cuMemAlloc{*this, "cuMemAlloc_v2"};
  const CudaCall<CudaAddress> cuMemFree{*this, "cuMemFree_v2"};
  const CudaCall<void**, std::size_t, unsigned> cuMemHostAlloc{*this, "cuMemHostAlloc"};
  const CudaCall<void*> cuMemFreeHost{*this, "cuMemFreeHost"};
  const CudaCall<void*, int, CudaAddress> cuPointerGetAttribute{*this, "cuPointerGetAttribute"};

  const CudaCall<CudaAddress, const void*, std::size_t, CudaStreamHandle> cuMemcpyHtoDAsync{
      *this, "cuMemcpyHtoDAsync_v2"};
  const CudaCall<void*, CudaAddress, std::size_t, CudaStreamHandle> cuMemcpyDtoHAsync{
      *this, "cuMemcpyDtoHAsync_v2"};
  const CudaCall<CudaAddress, CudaAddress, std::size_t, CudaStreamHandle> cuMemcpyDtoDAsync{
      *this, "cuMemcpyDtoDAsync_v2"};

  const CudaCall<CudaStreamHandle*, unsigned> cuStreamCreate{*this, "cuStreamCreate"};
  const CudaCall<CudaStreamHandle> cuStreamSynchronize{*this, "cuStreamSynchronize"};
  const CudaCall<CudaStreamHandle> cuStreamDestroy{*this, "cuStreamDestroy_v2"};
  const CudaCall<CudaEventHandle*, unsigned> cuEventCreate{*this, "cuEventCreate"};
  const CudaCall<CudaEventHandle, CudaStreamHandle> cuEventRecord{*this, "cuEventRecord"};
  const CudaCall<CudaEventHandle> cuEventSynchronize{*this, "cuEventSynchronize"};
  const CudaCall<CudaEventHandle> cuEventDestroy{*this, "cuEventDestroy_v2"};

 private:
  const CudaCall<CudaResult, const char**> cuGetErrorName{*this, "cuGetErrorName"};
  const CudaCall<CudaResult, const char**> cuGetErrorString{*this, "cuGetErrorString"};
};

template <typename... Arguments>
CudaCall<Arguments...>::CudaCall(const CudaDriver& driver, const char* name)
    : driver_(driver),
      name_(name),
      function_(reinterpret_cast<CudaResult (*)(Arguments...)>(driver.Find(name))) {}

template <typename... Arguments>
void CudaCall<Arguments...>::operator()(Arguments... arguments) const {
  const CudaResult result = function_(arguments...);
  if (result != 0) driver_.Throw(name_, result);
}

}  // namespace missile
