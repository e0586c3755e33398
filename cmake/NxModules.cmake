# The functions that declare modules, backends and tests. A target sees the headers of the modules it DEPENDS on and
# no others: each module's folder is offered under its name through a link of its own in the build tree.

add_custom_target(nx_objects) # all of src and plugins, compiled and not linked

function(nx_offer_headers target name folder)
  set(root ${CMAKE_BINARY_DIR}/headers/${name})
  file(MAKE_DIRECTORY ${root})
  file(CREATE_LINK ${folder} ${root}/${name} SYMBOLIC)
  target_include_directories(${target} INTERFACE ${root})
  target_include_directories(${target} PRIVATE ${root})
endfunction()

# nx_add_module(wire SOURCES a.cpp b.cpp DEPENDS base TESTS a_test.cpp TEST_DEPENDS memory)
# -> object library nx_wire, test program nx_wire_tests. DEPENDS are module names.
function(nx_add_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;TESTS;TEST_DEPENDS" ${ARGN})
  add_library(nx_${name} OBJECT ${ARG_SOURCES})
  add_dependencies(nx_objects nx_${name})
  nx_compile_options(nx_${name})
  target_include_directories(nx_${name} PUBLIC ${CMAKE_SOURCE_DIR}/include)
  nx_offer_headers(nx_${name} ${name} ${CMAKE_CURRENT_SOURCE_DIR})
  set(objects $<TARGET_OBJECTS:nx_${name}>)
  foreach(dep IN LISTS ARG_DEPENDS)
    target_include_directories(nx_${name} PUBLIC $<TARGET_PROPERTY:nx_${dep},INTERFACE_INCLUDE_DIRECTORIES>)
  endforeach()
  set_property(GLOBAL APPEND PROPERTY NX_MODULES ${name})
  set_property(GLOBAL PROPERTY NX_MODULE_${name}_TESTS ${ARG_TESTS})
  if(NIXL_TESTS AND ARG_TESTS)
    nx_add_test(nx_${name}_tests SOURCES ${ARG_TESTS} MODULES ${name} ${ARG_DEPENDS} ${ARG_TEST_DEPENDS})
  endif()
endfunction()

# nx_add_test(name SOURCES ... [MODULES internal modules to see and link] [LIBS ...] [ENV NAME=value ...]
#             [TIMEOUT seconds] [LABELS ...] [SERIAL])
# Without MODULES the test sees the public headers only and links libnixl.
function(nx_add_test name)
  cmake_parse_arguments(ARG "SERIAL" "TIMEOUT" "SOURCES;MODULES;LIBS;ENV;LABELS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  nx_compile_options(${name})
  if(ARG_MODULES)
    # A test of internals links the objects of all modules: hidden symbols cannot be reached through libnixl.
    target_link_libraries(${name} PRIVATE nx_all_objects)
    foreach(module IN LISTS ARG_MODULES)
      target_include_directories(${name} PRIVATE $<TARGET_PROPERTY:nx_${module},INTERFACE_INCLUDE_DIRECTORIES>)
    endforeach()
  else()
    target_link_libraries(${name} PRIVATE nixl)
  endif()
  target_link_libraries(${name} PRIVATE GTest::gtest GTest::gtest_main GTest::gmock Threads::Threads ${ARG_LIBS})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE NX_SOURCE_DIR="${CMAKE_SOURCE_DIR}" NX_BUILD_DIR="${CMAKE_BINARY_DIR}"
                             NX_PLUGIN_DIR="${NX_PLUGIN_DIR}")
  add_test(NAME ${name} COMMAND ${name} --gtest_brief=1)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT}
                       ENVIRONMENT "NIXL_PLUGIN_DIR=${NX_PLUGIN_DIR};NIXL_CONFIG_FILE=/dev/null;${ARG_ENV}")
  if(ARG_LABELS)
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}")
  endif()
  if(ARG_SERIAL)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
  endif()
endfunction()

# The shared library of a plugin, from its objects, those of the modules it uses, and its vendor's libraries.
function(nx_add_plugin target)
  cmake_parse_arguments(ARG "" "" "OBJECTS;LIBS" ${ARGN})
  add_library(${target} MODULE ${ARG_OBJECTS})
  nx_compile_options(${target})
  target_link_libraries(${target} PRIVATE nixl ${ARG_LIBS} Threads::Threads)
  nx_link_options(${target})
  target_link_options(${target} PRIVATE -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/plugin.map)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/plugin.map
                        LIBRARY_OUTPUT_DIRECTORY ${NX_PLUGIN_DIR} BUILD_RPATH "$ORIGIN/.." INSTALL_RPATH "$ORIGIN/..")
  set_property(GLOBAL APPEND PROPERTY NX_PLUGINS ${target})
endfunction()

# nx_add_contract(UCX SUITES Any Remote SOURCES contract_test.cpp [PLUGIN_DIR folder])
# -> the suites of tests/contract that a backend passes, as everybody outside gets them (NixlContract.cmake).
function(nx_add_contract name)
  if(NOT NIXL_TESTS OR NOT EXISTS ${CMAKE_SOURCE_DIR}/tests/contract)
    return()
  endif()
  string(TOLOWER contract_${name} targets)
  if(NOT TARGET nixl_contract_suites)
    list(APPEND targets nixl_contract_suites)
  endif()
  nixl_add_contract(${name} PLUGIN_DIR ${NX_PLUGIN_DIR} ${ARGN})
  foreach(target IN LISTS targets)
    nx_compile_options(${target})
  endforeach()
endfunction()

# nx_add_backend(UCX SOURCES plugin.cpp engine.cpp DEPENDS wire kit LIBS dl TESTS engine_test.cpp
#                AGENT_TESTS agent_test.cpp HOSTILE_TESTS hostile_test.cpp
#                CONTRACT Any Remote CONTRACT_SOURCES contract_test.cpp ENV NAME=value)
# -> lib/plugins/libplugin_UCX.so, or objects inside libnixl when the name is in NIXL_BUILTIN_PLUGINS, and the test
# programs nx_backend_<name>_tests, ..._agent_tests (for tests with an agent that loads the plugin) and
# ..._hostile_tests (for tests that fork before the vendor's library is there). All see the backend's own headers.
# DEPENDS are module names (wire, loop, kit). CONTRACT names the suites of tests/contract that it passes. ENV is for all
# of these tests.
function(nx_add_backend name)
  cmake_parse_arguments(ARG "" ""
    "SOURCES;DEPENDS;LIBS;INCLUDES;TESTS;AGENT_TESTS;HOSTILE_TESTS;CONTRACT;CONTRACT_SOURCES;ENV" ${ARGN})
  if(name IN_LIST NIXL_DISABLE_PLUGINS)
    message(STATUS "backend ${name}: left out (NIXL_DISABLE_PLUGINS)")
    return()
  endif()
  string(TOLOWER ${name} lower)
  set(objects nx_backend_${lower})
  add_library(${objects} OBJECT ${ARG_SOURCES})
  add_dependencies(nx_objects ${objects})
  nx_compile_options(${objects})
  target_include_directories(${objects} PUBLIC ${CMAKE_SOURCE_DIR}/include ${ARG_INCLUDES}
                             $<TARGET_PROPERTY:nx_base,INTERFACE_INCLUDE_DIRECTORIES>)
  nx_offer_headers(${objects} ${lower} ${CMAKE_CURRENT_SOURCE_DIR})
  set(support $<TARGET_OBJECTS:nx_base_leaf>)
  foreach(dep IN LISTS ARG_DEPENDS)
    target_include_directories(${objects} PUBLIC $<TARGET_PROPERTY:nx_${dep},INTERFACE_INCLUDE_DIRECTORIES>)
    list(APPEND support $<TARGET_OBJECTS:nx_${dep}>)
  endforeach()
  if(name IN_LIST NIXL_BUILTIN_PLUGINS)
    target_compile_definitions(${objects} PRIVATE NIXLX_BUILTIN=${name})
    set_property(GLOBAL APPEND PROPERTY NX_BUILTIN ${name})
    set_property(GLOBAL APPEND PROPERTY NX_BUILTIN_LIBS ${ARG_LIBS})
    if("kit" IN_LIST ARG_DEPENDS) # the other modules are in libnixl anyway
      set_property(GLOBAL PROPERTY NX_BUILTIN_KIT nx_kit)
    endif()
  else()
    nx_add_plugin(plugin_${name} OBJECTS $<TARGET_OBJECTS:${objects}> ${support} LIBS ${ARG_LIBS})
  endif()
  set_property(GLOBAL APPEND PROPERTY NX_BACKENDS ${name})
  if(ARG_CONTRACT)
    nx_add_contract(${name} SUITES ${ARG_CONTRACT} SOURCES ${ARG_CONTRACT_SOURCES} ENV ${ARG_ENV})
  endif()
  foreach(kind IN ITEMS tests agent_tests hostile_tests)
    string(TOUPPER ARG_${kind} sources)
    if(NIXL_TESTS AND ${sources})
      nx_add_test(nx_backend_${lower}_${kind} SOURCES ${${sources}} $<TARGET_OBJECTS:${objects}> ${support}
                  LIBS ${ARG_LIBS} ENV ${ARG_ENV})
      target_include_directories(nx_backend_${lower}_${kind} PRIVATE
                                 $<TARGET_PROPERTY:${objects},INTERFACE_INCLUDE_DIRECTORIES>)
      target_link_libraries(nx_backend_${lower}_${kind} PRIVATE nixl)
    endif()
  endforeach()
endfunction()

# A plugin of a kind that is neither built in nor has suites of its own: lib/plugins/lib<kind>_<name>.so and the test
# program nx_<kind>_<name>_tests, which sees the plugin's own headers.
function(nx_add_other_plugin kind name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LIBS;TESTS" ${ARGN})
  set(objects nx_${kind}_${name})
  add_library(${objects} OBJECT ${ARG_SOURCES})
  add_dependencies(nx_objects ${objects})
  nx_compile_options(${objects})
  target_include_directories(${objects} PUBLIC ${CMAKE_SOURCE_DIR}/include
                             $<TARGET_PROPERTY:nx_base,INTERFACE_INCLUDE_DIRECTORIES>)
  nx_offer_headers(${objects} ${name} ${CMAKE_CURRENT_SOURCE_DIR})
  set(all_objects $<TARGET_OBJECTS:${objects}> $<TARGET_OBJECTS:nx_base_leaf>)
  foreach(dep IN LISTS ARG_DEPENDS)
    target_include_directories(${objects} PUBLIC $<TARGET_PROPERTY:nx_${dep},INTERFACE_INCLUDE_DIRECTORIES>)
    list(APPEND all_objects $<TARGET_OBJECTS:nx_${dep}>)
  endforeach()
  nx_add_plugin(${kind}_${name} OBJECTS ${all_objects} LIBS ${ARG_LIBS})
  if(NIXL_TESTS AND ARG_TESTS)
    nx_add_test(nx_${kind}_${name}_tests SOURCES ${ARG_TESTS} $<TARGET_OBJECTS:${objects}>
                MODULES base ${ARG_DEPENDS} LIBS ${ARG_LIBS})
    target_include_directories(nx_${kind}_${name}_tests PRIVATE
                               $<TARGET_PROPERTY:${objects},INTERFACE_INCLUDE_DIRECTORIES>)
  endif()
endfunction()

# nx_add_store(file SOURCES plugin.cpp directory.cpp DEPENDS wire LIBS ... TESTS directory_test.cpp)
function(nx_add_store name)
  nx_add_other_plugin(store ${name} ${ARGN})
  set_property(GLOBAL APPEND PROPERTY NX_STORES store_${name})
endfunction()

# nx_add_security(tls SOURCES plugin.cpp session.cpp LIBS ... TESTS session_test.cpp)
function(nx_add_security name)
  nx_add_other_plugin(security ${name} ${ARGN})
endfunction()

# The table of built-in backends, made from the nx_add_backend calls.
function(nx_generate_builtin_table target)
  get_property(names GLOBAL PROPERTY NX_BUILTIN)
  get_property(libs GLOBAL PROPERTY NX_BUILTIN_LIBS)
  get_property(kit GLOBAL PROPERTY NX_BUILTIN_KIT)
  set(declarations "")
  set(rows "")
  foreach(name IN LISTS names)
    string(TOLOWER ${name} lower)
    string(APPEND declarations
           "extern \"C\" nixlBackendPlugin *nixl_plugin_init_${name}();\n"
           "extern \"C\" const nixlx_plugin_descriptor_t nixlx_plugin_descriptor_${name};\n")
    string(APPEND rows "    {\"${name}\", nixl_plugin_init_${name}, &nixlx_plugin_descriptor_${name}},\n")
    target_link_libraries(${target} PRIVATE nx_backend_${lower} ${kit} ${libs})
  endforeach()
  configure_file(${CMAKE_SOURCE_DIR}/cmake/builtin_plugins.cpp.in
                 ${CMAKE_BINARY_DIR}/generated/builtin_plugins.cpp @ONLY)
  target_sources(${target} PRIVATE ${CMAKE_BINARY_DIR}/generated/builtin_plugins.cpp)
  target_include_directories(${target} PRIVATE $<TARGET_PROPERTY:nx_plugin,INTERFACE_INCLUDE_DIRECTORIES>)
endfunction()
