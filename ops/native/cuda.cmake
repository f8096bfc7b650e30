# The compiler of kernels for GPUs, as the language CUDA. Sets `cuda_lacking`, why the library will
# have none, or nothing.
set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 80-virtual)  # the last one is PTX, for all others
set(ENV{CUDAARCHS} "${CMAKE_CUDA_ARCHITECTURES}")          # check_language asks there
if(NOT MNQ_CUDA OR MNQ_SANITIZE OR MNQ_EMULATE_CUDA)
  set(cuda_lacking "it was built without; build with -DMNQ_CUDA=ON")
  return()
endif()
if(NOT DEFINED ENV{CUDACXX})
  find_program(MNQ_NVCC nvcc PATHS /usr/local/cuda/bin)
  if(NOT MNQ_NVCC)
    set(cuda_lacking "expected nvcc 12 or newer when it was built, found none; install the CUDA \
toolkit, or name nvcc in the environment variable CUDACXX, and build again")
    return()
  endif()
  set(ENV{CUDACXX} "${MNQ_NVCC}")
endif()
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  find_package(CUDAToolkit 12 QUIET)
endif()
if(NOT CUDAToolkit_FOUND)
  set(cuda_lacking "expected nvcc 12 or newer that compiles when it was built, found \
$ENV{CUDACXX}, which does not; name another one in the environment variable CUDACXX, and build again")
endif()
