// AMX tiles: their configuration, and what the compiler has to be told about them.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mnq {
namespace MNQ_PATH {

constexpr int64_t tile_rows = 16;
constexpr int64_t tile_k = 64;  // codes of a row, bytes
constexpr int64_t tile_bytes = tile_rows * tile_k;

// The intrinsics of gcc 12 do not say that a tile load reads memory: stores before it must have
// happened.
static inline __attribute__((always_inline)) void tiles_fence() { __asm__ volatile("" ::: "memory"); }

// All eight tiles at full size for as long as this lives; the registers are given back after it,
// so that the kernel need not save them at every switch of threads.
class TileState {
 public:
  TileState() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; ++t) {
      config.bytes[t] = tile_k;
      config.rows[t] = tile_rows;
    }
    tiles_fence();
    _tile_loadconfig(&config);
  }
  ~TileState() { _tile_release(); }
  TileState(const TileState&) = delete;
  TileState& operator=(const TileState&) = delete;
};

}  // namespace MNQ_PATH
}  // namespace mnq
