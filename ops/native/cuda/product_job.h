// What a launch of a product works on, how a tile of it is shared among warps, and what follows sums.
#pragma once

#include "ops/native/cuda/rescale.h"
#include "ops/native/cuda/rows.h"

namespace mnq {

// y = [table of] clamp(rescale(a b + bias) [+ rescale(r)], lo, hi) for `batches` of `rows` rows, all
// of which count as one sequence of rows where operands broadcast.
struct ProductJob {
  const int8_t* a;  // (batches, rows, k)
  const int8_t* b;  // packed: (columns, k_padded), padded with zeros; else (batches, k, columns)
  int64_t batches, rows;
  int k, k_padded, columns;
  bool packed;
  const int32_t* bias;
  Places bias_places;
  Scale scale;
  Integers r;  // no data: no residual
  Scale residual_scale;
  Codes y;
  const int32_t *lo, *hi;  // by column, where they differ; else null
  const int8_t* table;     // null, or 256 codes: y, of int8, takes table[code + 128]
};

constexpr int piece = 16;  // bytes that go together, at addresses of which they are multiples
constexpr int table_size = 256;

// A tile of the product, a part of it for each warp. Sums stand as the tensor cores leave them: in
// tiles of 16 rows and 8 columns, where number r of lane l is row l / 4 + 8 (r / 2), column
// 2 (l % 4) + r % 2.
template <int rows_, int columns_, int row_warps_, int column_warps_>
struct ProductTile {
  static constexpr int rows = rows_, columns = columns_;
  static constexpr int row_warps = row_warps_, column_warps = column_warps_;
  static constexpr int threads = row_warps * column_warps * warp_size;
  static constexpr int warp_rows = rows / row_warps, warp_columns = columns / column_warps;
  static constexpr int row_tiles = warp_rows / 16, column_tiles = warp_columns / 8;
  static constexpr int sums_stride = warp_columns + 4;  // numbers of a row of sums
  static constexpr int sums_bytes = row_warps * column_warps * 16 * sums_stride * 4;
};

template <class T>
using Sums = int32_t[T::row_tiles][T::column_tiles][4];

MNQ_CORE int32_t wrapping_sum(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

// What follows the sum at (row, column) of all rows. `table` is the job's, in shared memory.
MNQ_DEVICE void finish(const ProductJob& job, const int8_t* table, int64_t row, int64_t column,
                       int32_t sum) {
  const int32_t z = wrapping_sum(sum, job.bias[place(job.bias_places, row, column)]);
  int64_t code = rescale_at(z, job.scale, row, column);
  const int64_t at = row * job.columns + column;
  if (job.r.data != nullptr) code += rescale_at(read(job.r, at), job.residual_scale, row, column);
  if (job.lo != nullptr) code = clamp(code, job.lo[column], job.hi[column]);
  if (job.table != nullptr) {
    static_cast<int8_t*>(job.y.data)[at] = table[clamp(code, job.y.lo, job.y.hi) + 128];
  } else {
    write(job.y, at, code);
  }
}

MNQ_DEVICE Words words_at(const int32_t* from) { return *reinterpret_cast<const Words*>(from); }

// The same for four columns whose constants stand side by side.
MNQ_DEVICE void finish_four(const ProductJob& job, const int8_t* table, int64_t row,
                            int64_t column, const Words& sums) {
  const Words bias = words_at(job.bias + column);
  const Words m = words_at(job.scale.m + column), e = words_at(job.scale.e + column);
  const int64_t at = row * job.columns + column;
  int64_t codes[4];
  MNQ_UNROLL
  for (int i = 0; i < 4; ++i) {
    codes[i] = rescale_word(wrapping_sum(sums.of[i], bias.of[i]), m.of[i], e.of[i]);
  }
  if (job.r.data != nullptr) {
    const Words m_r = words_at(job.residual_scale.m + column);
    const Words e_r = words_at(job.residual_scale.e + column);
    MNQ_UNROLL
    for (int i = 0; i < 4; ++i) {
      codes[i] += rescale_word(static_cast<int32_t>(read(job.r, at + i)), m_r.of[i], e_r.of[i]);
    }
  }
  if (job.lo != nullptr) {
    const Words lo = words_at(job.lo + column), hi = words_at(job.hi + column);
    MNQ_UNROLL
    for (int i = 0; i < 4; ++i) codes[i] = clamp(codes[i], lo.of[i], hi.of[i]);
  }
  Words words;
  MNQ_UNROLL
  for (int i = 0; i < 4; ++i) {
    words.of[i] = static_cast<int32_t>(clamp(codes[i], job.y.lo, job.y.hi));
    if (job.table != nullptr) words.of[i] = table[words.of[i] + 128];
  }
  if (job.y.type == Type::int8) {
    const uint32_t packed = (words.of[0] & 0xff) | (words.of[1] & 0xff) << 8 |
                            (words.of[2] & 0xff) << 16 | static_cast<uint32_t>(words.of[3]) << 24;
    *reinterpret_cast<uint32_t*>(static_cast<int8_t*>(job.y.data) + at) = packed;
  } else if (job.y.type == Type::int16) {
    Halves halves;
    MNQ_UNROLL
    for (int i = 0; i < 4; ++i) halves.of[i] = static_cast<int16_t>(words.of[i]);
    *reinterpret_cast<Halves*>(static_cast<int16_t*>(job.y.data) + at) = halves;
  } else {
    *reinterpret_cast<Words*>(static_cast<int32_t*>(job.y.data) + at) = words;
  }
}

// What follows this warp's sums. Fragments go through shared memory, so that a quad of lanes writes
// 16 columns side by side.
template <class T, bool whole>
MNQ_DEVICE void finish_tile(const ProductJob& job, const Sums<T>& sums, int64_t first_row,
                            int64_t first_column, int32_t* shared, const int8_t* table) {
  first_row += warp() / T::column_warps * T::warp_rows;
  first_column += warp() % T::column_warps * T::warp_columns;
  const int64_t before = block_z() * job.rows;  // rows of the batches before
  int32_t* own = shared + warp() * 16 * T::sums_stride;
  MNQ_UNROLL
  for (int i = 0; i < T::row_tiles; ++i) {
    MNQ_UNROLL
    for (int j = 0; j < T::column_tiles; ++j) {
      MNQ_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int row = lane() / 4 + r / 2 * 8, column = j * 8 + lane() % 4 * 2 + r % 2;
        own[row * T::sums_stride + column] = sums[i][j][r];
      }
    }
    sync_warp();
    constexpr int fours = T::warp_columns / 4;  // of a row
    for (int n = lane(); n < 16 * fours; n += warp_size) {
      const int64_t row = first_row + i * 16 + n / fours, column = first_column + n % fours * 4;
      const Words four = words_at(own + n / fours * T::sums_stride + n % fours * 4);
      if (row >= job.rows) continue;
      if (whole) {
        if (column < job.columns) finish_four(job, table, before + row, column, four);
      } else {
        for (int c = 0; c < 4 && column + c < job.columns; ++c) {
          finish(job, table, before + row, column + c, four.of[c]);
        }
      }
    }
    sync_warp();
  }
}

inline bool by_column(const Scale& scale) {
  return scale.places.axes == 0 && scale.places.column_step == 1;
}

// Whether `whole` kernels fit: k is whole pieces, columns whole fours, `b` packed, and constants stand
// by column.
inline bool is_whole(const ProductJob& job) {
  return job.packed && job.k % piece == 0 && job.columns % 4 == 0 && by_column(job.scale) &&
         aligned(job.a) && aligned(job.y.data) &&
         (job.r.data == nullptr || by_column(job.residual_scale));
}

template <class T>
int64_t blocks_of_tiles(const ProductJob& job) {
  return blocks_of(job.columns, T::columns) * blocks_of(job.rows, T::rows) * job.batches;
}

}  // namespace mnq
