# How everything is compiled: language level, warnings, visibility, sanitizers, linker, ccache.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# Libraries and plugins of a build tree lie as they do when installed: <lib>/libnixl.so and <lib>/plugins/.
set(NX_LIB_DIR ${CMAKE_BINARY_DIR}/lib)
set(NX_PLUGIN_DIR ${NX_LIB_DIR}/plugins)

find_package(Threads REQUIRED)

find_program(NX_CCACHE ccache)
if(NX_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${NX_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${NX_CCACHE})
endif()
find_program(NX_MOLD mold)
if(NX_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# Every target of ours calls this.
function(nx_compile_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wno-unused-parameter
                         $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>
                         # What outlives a temporary is an error in every build.
                         $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Werror=dangling-pointer>
                         $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Werror=dangling>)
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wdangling-reference>)
  endif()
  if(NIXL_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(NIXL_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${NIXL_SANITIZE} -fno-omit-frame-pointer -g1)
    target_link_options(${target} PRIVATE -fsanitize=${NIXL_SANITIZE})
  endif()
endfunction()

# Every shared library of ours calls this. Clang's sanitizers leave their run-time symbols to the program.
function(nx_link_options target)
  if(NOT NIXL_SANITIZE)
    target_link_options(${target} PRIVATE -Wl,--no-undefined)
  endif()
endfunction()
