// A product by blocks of rows and panels whose accumulators fit a small buffer, and packing in
// groups of consecutive k: what the paths without tiles share.
#pragma once

#include "ops/native/cpu/path/requantize.h"

namespace mnq {
namespace MNQ_PATH {

// `group` rows of 16 codes, column by column.
template <int group>
MNQ_INNER void interleave(const int8_t* from, int64_t stride, int8_t* to) {
#if defined(__SSE2__)
  const auto row = [&](int i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * stride));
  };
  auto* out = reinterpret_cast<__m128i*>(to);
  if (group == 2) {
    _mm_storeu_si128(out, _mm_unpacklo_epi8(row(0), row(1)));
    _mm_storeu_si128(out + 1, _mm_unpackhi_epi8(row(0), row(1)));
    return;
  }
  if (group == 4) {
    const __m128i low01 = _mm_unpacklo_epi8(row(0), row(1));
    const __m128i low23 = _mm_unpacklo_epi8(row(2), row(3));
    const __m128i high01 = _mm_unpackhi_epi8(row(0), row(1));
    const __m128i high23 = _mm_unpackhi_epi8(row(2), row(3));
    _mm_storeu_si128(out, _mm_unpacklo_epi16(low01, low23));
    _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low01, low23));
    _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(high01, high23));
    _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(high01, high23));
    return;
  }
#endif
  for (int64_t j = 0; j < panel_columns; ++j) {
    for (int64_t i = 0; i < group; ++i) *to++ = from[i * stride + j];
  }
}

// The first `rows` rows of 16 codes out of `group`, and rows of zeros.
template <int group>
MNQ_INNER void copy_rows(const int8_t* from, int64_t stride, int64_t rows, int8_t* to) {
  std::memset(to, 0, group * panel_columns);
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(to + i * panel_columns, from + i * stride, panel_columns);
  }
}

// The first `columns` columns of `group` codes out of 16, and columns of zeros.
template <int group>
MNQ_INNER void copy_columns(const int8_t* from, int64_t stride, int64_t columns, int8_t* to) {
  const auto copy = [&](int64_t count) {
    for (int64_t j = 0; j < count; ++j) std::memcpy(to + j * group, from + j * stride, group);
  };
  if (columns >= panel_columns) return copy(panel_columns);  // a count that the compiler knows
  copy(columns);
  std::memset(to + columns * group, 0, (panel_columns - columns) * group);
}

// Panels of 16 columns; inside, for every `group` of k the columns one after the other, each with
// its `group` codes. k is filled up with zeros to a multiple of `k_multiple`.
template <int group, int k_multiple>
MNQ_INNER void pack_groups(const int8_t* b, int64_t row_stride, int64_t column_stride, int64_t k,
                           int64_t n, int8_t* panels) {
  const int64_t padded = (k + k_multiple - 1) / k_multiple * k_multiple;
  for (int64_t first = 0; first < n; first += panel_columns) {
    const bool whole = first + panel_columns <= n;
    for (int64_t kk = 0; kk < padded; kk += group) {
      if (kk >= k) {
        std::memset(panels, 0, group * panel_columns);
        panels += group * panel_columns;
        continue;
      }
      const int8_t* from = b + kk * row_stride + first * column_stride;
      if (kk + group <= k && row_stride == 1) {
        copy_columns<group>(from, column_stride, n - first, panels);
        panels += group * panel_columns;
        continue;
      }
      if (whole && column_stride == 1) {
        int8_t last[group * panel_columns];
        const bool fits = kk + group <= k;
        if (!fits) copy_rows<group>(from, row_stride, k - kk, last);
        interleave<group>(fits ? from : last, fits ? row_stride : panel_columns, panels);
        panels += group * panel_columns;
        continue;
      }
      for (int64_t j = first; j < first + panel_columns; ++j) {
        for (int64_t g = kk; g < kk + group; ++g) {
          *panels++ = g < k && j < n ? b[g * row_stride + j * column_stride] : 0;
        }
      }
    }
  }
}

MNQ_INNER void copy_accumulators(const LinearJob& job, const int32_t* z, int64_t z_stride,
                                 int64_t row, int64_t rows, int64_t column, int64_t columns) {
  int32_t* y = static_cast<int32_t*>(job.finish.y) + row * job.finish.y_stride + column;
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(y + i * job.finish.y_stride, z + i * z_stride, columns * sizeof *z);
  }
}

MNQ_INNER void finish_block(const LinearJob& job, const int32_t* z, int64_t z_stride, int64_t row,
                            int64_t rows, int64_t first_panel, int64_t panels) {
  const int64_t column = first_panel * panel_columns;
  const int64_t left = job.finish.columns - column, all = panels * panel_columns;
  const int64_t columns = left < all ? left : all;
  if (job.raw) {
    copy_accumulators(job, z, z_stride, row, rows, column, columns);
  } else {
    finish(job.finish, z, z_stride, row, rows, column, columns);
  }
}

// One block of `rows` rows out of at most `most`: the first template argument that fits.
template <class Multiply, int most, int panels>
MNQ_INNER void multiply_rows(const LinearJob& job, int64_t row, int64_t rows, int64_t panel,
                             int32_t* z) {
  if constexpr (most > 1) {
    if (rows < most) {
      multiply_rows<Multiply, most - 1, panels>(job, row, rows, panel, z);
      return;
    }
  }
  Multiply::template run<most, panels>(job, row, panel, z, panels * panel_columns);
}

// All rows for some panels, in blocks of about equal height: a small block at the end would cost
// as much as a large one. Multiply::run<rows, panels>(job, row, panel, z, z_stride) computes the
// accumulators of a block, bias included.
template <class Multiply, int most, int panels>
MNQ_INNER void linear_panels(const LinearJob& job, int64_t panel) {
  alignas(64) int32_t z[most * panels * panel_columns];
  int64_t blocks = (job.finish.rows + most - 1) / most;
  for (int64_t row = 0; row < job.finish.rows; --blocks) {
    const int64_t rows = (job.finish.rows - row + blocks - 1) / blocks;
    multiply_rows<Multiply, most, panels>(job, row, rows, panel, z);
    finish_block(job, z, panels * panel_columns, row, rows, panel, panels);
    row += rows;
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
