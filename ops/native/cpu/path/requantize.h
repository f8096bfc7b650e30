// Requantization of rows (ops/requantize/SPEC.md, ops/requantize_add/SPEC.md).
#pragma once

#include "ops/native/cpu/jobs.h"
#include "ops/native/cpu/path/vector.h"
#include "ops/requantize/kernel.h"

namespace mnq {
namespace MNQ_PATH {

MNQ_INNER Lanes m_of(const Rescaling& scale, int64_t column) {
  return scale.per_column ? load(scale.m + column) : repeat(scale.m[0]);
}
MNQ_INNER Lanes e_of(const Rescaling& scale, int64_t column) {
  return scale.per_column ? load(scale.e + column) : repeat(scale.e[0]);
}

// m, e and rounding of a group of lanes in the form that they are used in.
template <Form form>
struct Factor : WideFactor {
  MNQ_MEMBER Factor(const Rescaling& scale, int64_t column)
      : WideFactor(m_of(scale, column), e_of(scale, column)) {}
  MNQ_MEMBER Lanes apply(Lanes z) const { return narrow_rescale(z, *this); }
};

template <>
struct Factor<Form::high_word> {
  Lanes m, s, half;  // s = e - 32, half = 2^(s-1)

  MNQ_MEMBER Factor(const Rescaling& scale, int64_t column)
      : m(m_of(scale, column)),
        s(subtract(e_of(scale, column), repeat(32))),
        half(shift_left(repeat(1), subtract(s, repeat(1)))) {}
  MNQ_MEMBER Lanes apply(Lanes z) const {
    return shift_right(add(high_word(z, m), half), s);
  }
};

// One group of lanes over all rows: constants are read once. `part` is how many lanes count,
// unless all do. Never inlined, or the compiler merges variants and runs out of registers.
template <Form z_form, bool residual, bool whole, bool clamped, class Y>
__attribute__((noinline)) static void requantize_lanes(const int32_t* z, int64_t z_stride,
                                                       const int16_t* r, Y* y, int64_t rows,
                                                       const RequantizeJob& job, int64_t column,
                                                       int part) {
  const Factor<z_form> scale(job.scale, column);
  const Factor<Form::narrow> residual_scale(residual ? job.residual_scale : job.scale, column);
  const Lanes lo = repeat(job.lo), hi = repeat(job.hi);
  const int64_t r_stride = job.r_stride, y_stride = job.y_stride;
  for (int64_t i = 0; i < rows; ++i) {
    Lanes x = scale.apply(load(z));
    if (residual) {
      const Lanes addend = whole ? load(r) : load_part(r, part);
      x = add(x, residual_scale.apply(addend));
      r += r_stride;
    }
    if (clamped) x = smaller(larger(x, lo), hi);
    if (whole) {
      store(y, x);
    } else {
      store_part(y, x, part);
    }
    z += z_stride;
    y += y_stride;
  }
}

// Storing saturates to the element type: a clamp is for fewer bits.
template <class Y>
MNQ_INNER bool is_clamped(const RequantizeJob& job) {
  constexpr int64_t top = (int64_t{1} << (8 * sizeof(Y) - 1)) - 1;
  return lanes == 1 || job.lo != -top - 1 || job.hi != top;
}

// Rows of int32 z, readable to the next multiple of `lanes`, from `column` of the job on.
template <Form z_form, bool residual, class Y>
MNQ_INNER void requantize_block(const int32_t* z, int64_t z_stride, const int16_t* r, Y* y,
                                int64_t rows, int64_t columns, const RequantizeJob& job,
                                int64_t column) {
  const bool clamped = is_clamped<Y>(job);
  for (int64_t j = 0; j < columns; j += lanes) {
    const int part = static_cast<int>(columns - j < lanes ? columns - j : lanes);
    const int16_t* from = residual ? r + j : nullptr;
    if (part < lanes) {
      requantize_lanes<z_form, residual, false, true>(z + j, z_stride, from, y + j, rows, job,
                                                      column + j, part);
    } else if (clamped) {
      requantize_lanes<z_form, residual, true, true>(z + j, z_stride, from, y + j, rows, job,
                                                     column + j, lanes);
    } else {
      requantize_lanes<z_form, residual, true, false>(z + j, z_stride, from, y + j, rows, job,
                                                      column + j, lanes);
    }
  }
}

template <class Y>
MNQ_INNER void finish_as(const RequantizeJob& job, const int32_t* z, int64_t z_stride,
                         const int16_t* r, Y* y, int64_t rows, int64_t columns, int64_t column) {
  const bool high = job.scale.form == Form::high_word;
  if (high && r == nullptr) {
    requantize_block<Form::high_word, false>(z, z_stride, r, y, rows, columns, job, column);
  } else if (high) {
    requantize_block<Form::high_word, true>(z, z_stride, r, y, rows, columns, job, column);
  } else if (r == nullptr) {
    requantize_block<Form::narrow, false>(z, z_stride, r, y, rows, columns, job, column);
  } else {
    requantize_block<Form::narrow, true>(z, z_stride, r, y, rows, columns, job, column);
  }
}

MNQ_INNER int64_t element(const void* p, Type type, int64_t i) {
  switch (type) {
    case Type::int8:
      return static_cast<const int8_t*>(p)[i];
    case Type::int16:
      return static_cast<const int16_t*>(p)[i];
    default:
      return static_cast<const int32_t*>(p)[i];
  }
}

// The definition, one element at a time: what no faster form covers.
static void finish_wide(const RequantizeJob& job, const int32_t* z, int64_t z_stride, int64_t row,
                        int64_t rows, int64_t column, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t c = job.scale.per_column ? column + j : 0;
      int64_t x = rescale(z[i * z_stride + j], job.scale.m[c], job.scale.e[c]);
      if (job.r != nullptr) {
        const int64_t d = job.residual_scale.per_column ? column + j : 0;
        const int64_t r = element(job.r, job.r_type, (row + i) * job.r_stride + column + j);
        x += rescale(r, job.residual_scale.m[d], job.residual_scale.e[d]);
      }
      x = clamp(x, job.lo, job.hi);
      const int64_t at = (row + i) * job.y_stride + column + j;
      switch (job.y_type) {
        case Type::int8:
          static_cast<int8_t*>(job.y)[at] = static_cast<int8_t>(x);
          break;
        case Type::int16:
          static_cast<int16_t*>(job.y)[at] = static_cast<int16_t>(x);
          break;
        default:
          static_cast<int32_t*>(job.y)[at] = static_cast<int32_t>(x);
      }
    }
  }
}

// Codes of the block of the job at (row, column); z is int32 and readable to the next multiple of
// 16 columns.
static void finish(const RequantizeJob& job, const int32_t* z, int64_t z_stride, int64_t row,
                   int64_t rows, int64_t column, int64_t columns) {
  const bool residual = job.r != nullptr;
  const int64_t at = row * job.y_stride + column;
  if (job.scale.form == Form::wide ||
      (residual && (job.r_type != Type::int16 || job.residual_scale.form != Form::narrow))) {
    finish_wide(job, z, z_stride, row, rows, column, columns);
    return;
  }
  const int16_t* r =
      residual ? static_cast<const int16_t*>(job.r) + row * job.r_stride + column : nullptr;
  switch (job.y_type) {
    case Type::int8:
      finish_as(job, z, z_stride, r, static_cast<int8_t*>(job.y) + at, rows, columns, column);
      break;
    case Type::int16:
      finish_as(job, z, z_stride, r, static_cast<int16_t*>(job.y) + at, rows, columns, column);
      break;
    default:
      finish_as(job, z, z_stride, r, static_cast<int32_t*>(job.y) + at, rows, columns, column);
  }
}

template <class Z>
MNQ_INNER void widen(const void* z, int64_t at, int64_t columns, int32_t* to) {
  const Z* from = static_cast<const Z*>(z) + at;
  for (int64_t c = 0; c < columns; ++c) to[c] = from[c];
  for (int64_t c = columns; c % panel_columns != 0; ++c) to[c] = 0;
}

// `Path::requantize`: rows of any type, widened in blocks that stay in the first-level cache.
static void requantize(const RequantizeJob& job) {
  constexpr int64_t block = 4096, most_columns = 512;
  alignas(64) int32_t z[block];
  for (int64_t j = 0; j < job.columns; j += most_columns) {
    const int64_t columns = job.columns - j < most_columns ? job.columns - j : most_columns;
    const int64_t stride = (columns + panel_columns - 1) / panel_columns * panel_columns;
    for (int64_t i = 0; i < job.rows; i += block / stride) {
      const int64_t left = job.rows - i, rows = left < block / stride ? left : block / stride;
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t at = (i + row) * job.z_stride + j;
        switch (job.z_type) {
          case Type::int8:
            widen<int8_t>(job.z, at, columns, z + row * stride);
            break;
          case Type::int16:
            widen<int16_t>(job.z, at, columns, z + row * stride);
            break;
          default:
            widen<int32_t>(job.z, at, columns, z + row * stride);
        }
      }
      finish(job, z, stride, i, rows, j, columns);
    }
  }
}

}  // namespace MNQ_PATH
}  // namespace mnq
