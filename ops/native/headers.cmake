# onnxruntime's C headers. Sets `headers`, their folder, or `lacking` if there are none.
if(NOT ONNXRUNTIME_INCLUDE_DIR AND DEFINED ENV{ORT_INCLUDE_DIR})
  set(ONNXRUNTIME_INCLUDE_DIR "$ENV{ORT_INCLUDE_DIR}")
endif()
if(ONNXRUNTIME_INCLUDE_DIR)
  set(headers "${ONNXRUNTIME_INCLUDE_DIR}")
else()
  find_path(MNQ_FOUND_HEADERS onnxruntime_c_api.h
    PATH_SUFFIXES onnxruntime onnxruntime/core/session)
  set(headers "${MNQ_FOUND_HEADERS}")
endif()

set(remedy "install them (Debian 13: apt install libonnxruntime-dev) or name their folder in \
the environment variable ORT_INCLUDE_DIR")
if(NOT headers)
  find_program(MNQ_PYTHON NAMES python3 python)
  execute_process(
    COMMAND "${MNQ_PYTHON}" "${CMAKE_CURRENT_LIST_DIR}/onnxruntime_headers.py"
            "${CMAKE_CURRENT_BINARY_DIR}/headers"
    OUTPUT_VARIABLE headers ERROR_VARIABLE why RESULT_VARIABLE status
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
  if(NOT status EQUAL 0)
    set(lacking "expected onnxruntime's C headers, found none (${why}); ${remedy}")
    return()
  endif()
endif()

set(header "${headers}/onnxruntime_c_api.h")
if(NOT EXISTS "${header}")
  set(lacking "expected onnxruntime_c_api.h in ${headers}, found no such file; ${remedy}")
  return()
endif()
file(STRINGS "${header}" version REGEX "^#define ORT_API_VERSION ")
string(REGEX MATCH "[0-9]+" version "${version}")
if(version LESS 21)
  set(lacking "expected onnxruntime's headers of 1.21 or newer, found 1.${version} in ${headers}; \
${remedy}")
  return()
endif()
message(STATUS "onnxruntime's headers: 1.${version} in ${headers}")
