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

set(ENV{NIXL_CONFIG_FILE} /dev/null)
set(ENV{NIXL_PLUGIN_DIR} ${WORK}/build/plugins)
must(${WORK}/build/program)
if(EXISTS ${WORK}/build/program_pc)
  must(${WORK}/build/program_pc)
endif()

# What is installed is what is in the tree.
file(GLOB_RECURSE headers RELATIVE ${TREE}/include ${TREE}/include/*.h)
if(NOT headers)
  message(FATAL_ERROR "no headers in ${TREE}/include")
endif()
foreach(header IN LISTS headers)
  must(${CMAKE_COMMAND} -E compare_files ${TREE}/include/${header} ${prefix}/include/${header})
endforeach()
