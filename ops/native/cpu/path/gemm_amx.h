// Products by AMX tiles (s8 x s8): 16 rows by 16 columns, 64 k at a time. While the tile unit
// multiplies one block, the vector units requantize the block before it: a slice after each step
// of k, since the processor looks only a few hundred instructions ahead.
#pragma once

#include "ops/native/cpu/path/gemm_blocks.h"
#include "ops/native/cpu/path/tiles.h"

namespace mnq {
namespace MNQ_PATH {

constexpr int64_t row_tile = tile_rows;

static int64_t padded_k(int64_t k) { return (k + tile_k - 1) / tile_k * tile_k; }

static int64_t prepared_stride(int64_t k) { return k % tile_k == 0 ? 0 : padded_k(k); }

static void prepare(const int8_t* a, int64_t stride, int64_t rows, int64_t k, void* prepared) {
  for (int64_t i = 0; i < rows; ++i) {
    char* to = static_cast<char*>(prepared) + i * padded_k(k);
    std::memcpy(to, a + i * stride, k);
    std::memset(to + k, 0, padded_k(k) - k);
  }
}

static int64_t panel_bytes(int64_t k) { return padded_k(k) * panel_columns; }

static void pack(const int8_t* b, int64_t row_stride, int64_t column_stride, int64_t k, int64_t n,
                 int8_t* panels, int32_t* offsets) {
  pack_groups<4, tile_k>(b, row_stride, column_stride, k, n, panels);
  for (int64_t j = 0; j < n; ++j) offsets[j] = 0;
}

constexpr int64_t block_columns = 2 * panel_columns;

// A block whose accumulators wait in memory for their requantization.
struct Pending {
  const LinearJob& job;
  const int32_t* z = nullptr;
  int64_t row = 0, rows = 0, panel = 0, panels = 0;

  // Requantizes up to `most` of the rows that are left.
  MNQ_MEMBER void advance(int64_t most) {
    const int64_t now = rows < most ? rows : most;
    if (now == 0) return;
    finish_block(job, z, block_columns, row, now, panel, panels);
    z += now * block_columns;
    row += now;
    rows -= now;
  }
};

// The panels that come next, on their way from memory while these are multiplied: weights are
// read once per image, and a step of k leaves the time for some cache lines.
struct Ahead {
  const int8_t *at, *end;

  MNQ_MEMBER void advance() {
    constexpr int lines_per_step = 6;
    for (int i = 0; i < lines_per_step && at < end; ++i, at += 64) _mm_prefetch(at, _MM_HINT_T1);
  }
};

// Accumulators of `tiles` * 16 rows from `row` on and of `panels` panels, into rows of z.
template <int tiles, int panels, bool unsigned_a>
MNQ_INNER void multiply_block(const LinearJob& job, int64_t row, int64_t panel, int32_t* z,
                              int64_t z_stride, Pending& before, Ahead& ahead) {
  const int64_t bytes = panel_bytes(job.k);
  const int8_t *a = job.a + row * job.a_stride, *b = job.panels + panel * bytes;
  const int8_t* lower = a + tile_rows * job.a_stride;
  const int32_t* bias = job.bias + panel * panel_columns;
  const int64_t steps = bytes / tile_bytes;
  const int64_t share = (before.rows + steps - 1) / steps, slice = share < 4 ? 4 : share;
  tiles_fence();
  _tile_loadd(0, bias, 0);  // stride 0: the same bias in every row
  if (panels > 1) _tile_loadd(1, bias + panel_columns, 0);
  if (tiles > 1) _tile_loadd(2, bias, 0);
  if (tiles > 1 && panels > 1) _tile_loadd(3, bias + panel_columns, 0);
  for (int64_t step = 0; step < steps; ++step) {
    _tile_loadd(4, a + step * tile_k, job.a_stride);
    _tile_loadd(6, b + step * tile_bytes, tile_k);
    if (panels > 1) _tile_loadd(7, b + bytes + step * tile_bytes, tile_k);
    if (tiles > 1) _tile_loadd(5, lower + step * tile_k, job.a_stride);
    if (unsigned_a) {
      _tile_dpbusd(0, 4, 6);
      if (panels > 1) _tile_dpbusd(1, 4, 7);
      if (tiles > 1) _tile_dpbusd(2, 5, 6);
      if (tiles > 1 && panels > 1) _tile_dpbusd(3, 5, 7);
    } else {
      _tile_dpbssd(0, 4, 6);
      if (panels > 1) _tile_dpbssd(1, 4, 7);
      if (tiles > 1) _tile_dpbssd(2, 5, 6);
      if (tiles > 1 && panels > 1) _tile_dpbssd(3, 5, 7);
    }
    ahead.advance();
    before.advance(slice);
  }
  before.advance(before.rows);
  int32_t* below = z + tile_rows * z_stride;
  const int64_t stride = z_stride * sizeof *z;
  _tile_stored(0, z, stride);
  if (panels > 1) _tile_stored(1, z + panel_columns, stride);
  if (tiles > 1) _tile_stored(2, below, stride);
  if (tiles > 1 && panels > 1) _tile_stored(3, below + panel_columns, stride);
}

// The last rows are done by stepping back to a whole tile: rows that were done before are
// multiplied again and not written again (accumulators are, with the same values).
template <bool unsigned_a>
MNQ_INNER void linear_tiles(const LinearJob& job) {
  alignas(64) int32_t buffers[2][2 * tile_rows * block_columns];
  Pending pending{job};
  int turn = 0;
  const int64_t rows = job.finish.rows;
  constexpr int64_t group = 4;  // panels that stay in the first-level cache beside the rows
  for (int64_t first = job.first_panel; first < job.last_panel; first += group) {
    const int64_t last = first + group < job.last_panel ? first + group : job.last_panel;
    const int64_t bytes = panel_bytes(job.k), all = job.finish.columns / panel_columns;
    Ahead ahead{job.panels + last * bytes, job.panels + all * bytes};
    if (ahead.end > ahead.at + group * bytes) ahead.end = ahead.at + group * bytes;
    for (int64_t done = 0; done < rows;) {
      const bool two = rows - done >= 2 * tile_rows;
      const int64_t height = two ? 2 * tile_rows : tile_rows;
      const int64_t start = done + height <= rows || rows < height ? done : rows - height;
      const int64_t fresh = rows - done < height ? rows - done : height;
      const int64_t skip = done - start;
      for (int64_t panel = first; panel < last; panel += 2) {
        const int panels = last - panel > 1 ? 2 : 1;
        const int64_t column = panel * panel_columns;
        const bool direct = job.raw && start + height <= rows &&
                            column + panels * panel_columns <= job.finish.columns;
        int32_t* z = buffers[turn ^= 1];
        int64_t z_stride = block_columns;
        if (direct) {
          z = static_cast<int32_t*>(job.finish.y) + start * job.finish.y_stride + column;
          z_stride = job.finish.y_stride;
        }
        if (two && panels == 2) {
          multiply_block<2, 2, unsigned_a>(job, start, panel, z, z_stride, pending, ahead);
        } else if (two) {
          multiply_block<2, 1, unsigned_a>(job, start, panel, z, z_stride, pending, ahead);
        } else if (panels == 2) {
          multiply_block<1, 2, unsigned_a>(job, start, panel, z, z_stride, pending, ahead);
        } else {
          multiply_block<1, 1, unsigned_a>(job, start, panel, z, z_stride, pending, ahead);
        }
        pending.z = z + skip * block_columns;
        pending.row = done;
        pending.rows = direct ? 0 : fresh;
        pending.panel = panel;
        pending.panels = panels;
      }
      done += fresh;
    }
  }
  pending.advance(pending.rows);
}

// What has to live around `linear_rows`.
using ProductState = TileState;

static void linear_rows(const LinearJob& job) {
  if (job.unsigned_a) {
    linear_tiles<true>(job);
  } else {
    linear_tiles<false>(job);
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
