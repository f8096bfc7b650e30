// What one call of an inner loop works on. Plain data: files of every instruction set include it.
#pragma once

#include <cstdint>

#include "ops/native/type.h"

namespace mnq {

constexpr int64_t panel_columns = 16;  // of a packed right operand

// How round_half_up(z * m / 2^e) may be computed exactly (ops/requantize/SPEC.md).
enum class Form {
  high_word,  // z fits 32 bits and e >= 33: (mulhi32(z, m) + 2^(e-33)) >> (e-32)
  narrow,     // z fits 16 bits and e >= 17: the result fits 30 bits, the product 47
  wide,       // anything: 64 bits throughout
};

// m and e of a requantization: one value per column, readable to the next multiple of 16 columns,
// or one for all columns.
struct Rescaling {
  const int32_t* m;
  const int32_t* e;
  bool per_column;
  Form form;
};

// Rows of integers to codes: y = clamp(z*m/2^e [+ r*m_r/2^e_r], lo, hi).
struct RequantizeJob {
  const void* z;
  Type z_type;       // int8, int16 or int32
  int64_t z_stride;  // elements, like all strides here
  const void* r;     // null: no residual
  Type r_type;
  int64_t r_stride;
  void* y;  // may be r, if the types are equal
  Type y_type;
  int64_t y_stride;
  int64_t rows, columns;
  Rescaling scale, residual_scale;
  int32_t lo, hi;
};

// y = requantize(a b + bias [, r]) for all rows and the panels [first_panel, last_panel) of b.
struct LinearJob {
  const int8_t* a;   // rows as `prepare` leaves them, or as they are
  int64_t a_stride;  // bytes
  int64_t k;
  const int8_t* panels;  // all of b, packed
  int64_t first_panel, last_panel;
  const int32_t* bias;  // of all columns, offsets of `pack` included
  // Pointers and vectors are those of row 0 and column 0 of b; z is not read. With `raw`, y takes
  // the int32 accumulators themselves.
  RequantizeJob finish;
  bool raw;
  const int8_t* table;  // null, or 256 codes: y, of int8, takes table[code + 128]
  bool unsigned_a;  // codes of a are 0..255: bias has no offsets, AVX2 reads `prepare_unsigned`
};

struct AttentionJob;  // attention_job.h
struct LayerNormJob;  // layernorm_job.h

}  // namespace mnq
