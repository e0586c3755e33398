# Installs BUILD, the build of TREE, into WORK/prefix, builds the project SOURCE against it and runs what came out.
# Any failure ends it.
function(must)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "failed (${result}): ${command}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
set(prefix ${WORK}/prefix)
must(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})
set(ENV{PKG_CONFIG_PATH} ${prefix}/${LIBDIR}/pkgconfig)
must(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK}/build -G Ninja -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_PREFIX_PATH=${prefix})
must(${CMAKE_COMMAND} --build ${WORK}/build)

must(${CMAKE_CTEST_COMMAND} --test-dir ${WORK}/build --output-on-failure)

# The example plugins, each a project of its own; together they compile the suites once.
set(folder ${WORK}/plugins)
file(WRITE ${folder}/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)\nproject(plugins CXX)\nenable_testing()\n")
foreach(plugin IN ITEMS file unix)
  file(APPEND ${folder}/CMakeLists.txt "add_subdirectory(${TREE}/examples/plugins/${plugin} ${plugin})\n")
endforeach()
must(${CMAKE_COMMAND} -S ${folder} -B ${folder}/build -G Ninja -DCMAKE_CXX_COMPILER=${CXX}
     -DCMAKE_PREFIX_PATH=${prefix})
must(${CMAKE_COMMAND} --build ${folder}/build)
must(${CMAKE_CTEST_COMMAND} --test-dir ${folder}/build --output-on-failure --no-tests=error -R polled)

set(ENV{NIXL_CONFIG_FILE} /dev/null)
set(ENV{NIXL_PLUGIN_DIR} ${WORK}/build/plugins)
set(ENV{NIXL_TELEMETRY_ENABLE} yes)
set(ENV{NIXL_TELEMETRY_EXPORTER} outside)
set(ENV{OUTSIDE_EVENTS} ${WORK}/events)
must(${WORK}/build/program)
file(READ ${WORK}/events events)
if(NOT events MATCHES "agent_tx_bytes 4\nagent_tx_requests_num 1\nagent_memory_deregistered 17\n$")
  message(FATAL_ERROR "the exporter of the project outside was given:\n${events}")
endif()
if(EXISTS ${WORK}/build/program_pc)
  must(${WORK}/build/program_pc)
endif()

# Each header of the kit compiles alone.
file(GLOB_RECURSE kit_headers ${prefix}/include/nixl_kit/*.h)
foreach(header IN LISTS kit_headers)
  file(WRITE ${WORK}/alone.cpp "#include \"${header}\"\n")
  must(${CXX} -std=c++20 -fsyntax-only -Wall -Wextra -Werror -I${prefix}/include -I${prefix}/include/nixl_kit
       ${WORK}/alone.cpp)
endforeach()

# What is installed is what is in the tree.
file(GLOB_RECURSE headers RELATIVE ${TREE}/include ${TREE}/include/*.h)
if(NOT headers)
  message(FATAL_ERROR "no headers in ${TREE}/include")
endif()
foreach(header IN LISTS headers)
  must(${CMAKE_COMMAND} -E compare_files ${TREE}/include/${header} ${prefix}/include/${header})
endforeach()
