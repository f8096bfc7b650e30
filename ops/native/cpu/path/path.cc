// One table of inner loops. Compiled once per instruction set, with MNQ_PATH naming it.
#include "ops/native/cpu/path.h"

#include "ops/native/cpu/path/attention.h"
#include "ops/native/cpu/path/gemm.h"
#include "ops/native/cpu/path/l2_normalize.h"
#include "ops/native/cpu/path/layernorm.h"
#include "ops/native/cpu/path/mean_tokens.h"
#include "ops/native/cpu/path/requantize.h"
#include "ops/native/cpu/path/table.h"

#define MNQ_TEXT_OF(name) #name
#define MNQ_TEXT(name) MNQ_TEXT_OF(name)
#define MNQ_JOIN_OF(a, b) a##b
#define MNQ_JOIN(a, b) MNQ_JOIN_OF(a, b)

namespace mnq {

extern const Path MNQ_JOIN(path_, MNQ_PATH);
const Path MNQ_JOIN(path_, MNQ_PATH) = {
    MNQ_TEXT(MNQ_PATH),  MNQ_PATH::row_tile,     MNQ_PATH::prepared_stride, MNQ_PATH::prepare,
    MNQ_PATH::pack,      MNQ_PATH::linear,       MNQ_PATH::attend,          MNQ_PATH::requantize,
    MNQ_PATH::layernorm, MNQ_PATH::l2_normalize, MNQ_PATH::sum_rows,        MNQ_PATH::look_up,
    MNQ_PATH::row_max,
};

}  // namespace mnq
