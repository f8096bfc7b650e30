// The kernels without onnxruntime, for tests and other hosts. A C interface: texts end with a
// zero byte, element types and the attribute `to` are ONNX's numbers (int8 is 3).
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#define MNQ_API __declspec(dllexport)
#else
#define MNQ_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define MNQ_MAX_RANK 8

typedef struct mnq_tensor {
  const void* data;  // null: an activation, which mnq_run() gets
  int32_t type;
  int32_t rank;
  int64_t shape[MNQ_MAX_RANK];
} mnq_tensor;

typedef struct mnq_kernel mnq_kernel;

// What went wrong; empty if nothing did.
typedef struct mnq_error {
  char text[512];
} mnq_error;

// A line per operator: name and activations | constants | attribute, words with spaces between.
MNQ_API const char* mnq_operators(void);

// Names of the paths that this machine has, slowest first, with spaces between.
MNQ_API const char* mnq_paths(void);

// Why there is no path "cuda" here, the GPU's; empty if there is. mnq_paths() never names it.
MNQ_API const char* mnq_cuda_lacking(void);

// The path that sessions use on the CPU: the fastest, or what MNQ_CPU_PATH names. Null if it names none.
MNQ_API const char* mnq_chosen_path(mnq_error* error);

// A kernel of an operator whose inputs are `inputs` (all, in its order), on a path by name.
// `to` is not read where the operator has no such attribute. Constants have to stay where they
// are until mnq_free(). Null if the operator or the library refuses.
MNQ_API mnq_kernel* mnq_make(const char* name, const mnq_tensor* inputs, int32_t to,
                             const char* path, mnq_error* error);
MNQ_API void mnq_free(mnq_kernel* kernel);

// Fills in type, rank and shape of `output`. 0, or -1 if the inputs are refused.
MNQ_API int mnq_output(const mnq_kernel* kernel, const mnq_tensor* inputs, mnq_tensor* output,
                       mnq_error* error);

// Computes into `output`, which has room for what mnq_output() says, on `threads` threads.
// Several calls may run at once. 0, or -1 if the inputs are refused.
MNQ_API int mnq_run(const mnq_kernel* kernel, const mnq_tensor* inputs, void* output,
                    int32_t threads, mnq_error* error);

#ifdef __cplusplus
}
#endif
