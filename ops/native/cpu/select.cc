// Which paths this CPU can run, and which one is used.
#include <cstdlib>

#include "ops/native/cpu/path.h"
#include "ops/native/kernel.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mnq {

extern const Path path_portable;
#if defined(__x86_64__)
extern const Path path_avx2, path_avx512, path_amx;

namespace {

// Linux hands out the tile registers to processes that ask for them.
bool tiles_granted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

// CPUID leaf 7: EDX bit 24 is AMX-TILE, bit 25 AMX-INT8. (gcc 12 has no names for them.)
bool has_tiles() {
  unsigned a = 7, b, c = 0, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (d >> 24 & 3) == 3 && tiles_granted();
}

// CPUID leaf 0x80000001: ECX bit 5. (gcc 12 has no name for it.)
bool has_lzcnt() {
  unsigned a = 0x80000001, b, c = 0, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (c >> 5 & 1) != 0;
}

// Ice Lake and Zen 4 and newer: the byte permutation (VBMI) is what tables need.
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}

}  // namespace
#endif

const std::vector<const Path*>& available_paths() {
  static const std::vector<const Path*> paths = [] {
    std::vector<const Path*> result{&path_portable};
#if defined(__x86_64__)
    __builtin_cpu_init();
    // What every CPU with AVX2 has; a virtual machine may hide part of it.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2") && has_lzcnt()) {
      result.push_back(&path_avx2);
      if (has_avx512()) {
        result.push_back(&path_avx512);
        if (has_tiles()) result.push_back(&path_amx);
      }
    }
#endif
    return result;
  }();
  return paths;
}

const Path& path_named(const std::string& name) {
  std::string names;
  for (const Path* path : available_paths()) {
    if (name == path->name) return *path;
    names += (names.empty() ? "" : ", ") + std::string(path->name);
  }
  throw Refusal("MNQ_CPU_PATH: expected one of " + names + " on this machine, found '" + name +
                "'; unset it, or choose one of these");
}

const Path& chosen_path() {
  const char* wanted = std::getenv("MNQ_CPU_PATH");
  if (wanted == nullptr || *wanted == '\0') return *available_paths().back();
  return path_named(wanted);
}

}  // namespace mnq
