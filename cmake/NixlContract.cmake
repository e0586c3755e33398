# How a backend is tested, in this tree and outside: find_package(nixl) brings this file along (docs/plugin-guide.md).
#
# nixl_add_contract(MINE SUITES Any Storage [SOURCES contract_test.cpp] [PLUGIN_DIR folder] [ENV NAME=value ...])
# -> the program contract_mine of the suites in tests/contract, which are compiled once a project, and the tests
# nx_contract_mine_polled and ..._threaded, labelled "contract". SOURCES define nx::test::backendUnderTest(): how stores
# are made (Storage needs that), what deviates. PLUGIN_DIR is where libplugin_MINE.so lies; the target plugin_MINE is
# built before.
set(NIXL_CONTRACT_ROOT ${CMAKE_CURRENT_LIST_DIR}/../tests)
if(NOT EXISTS ${NIXL_CONTRACT_ROOT}/contract) # installed
  set(NIXL_CONTRACT_ROOT ${CMAKE_CURRENT_LIST_DIR}/tests)
endif()

function(nixl_add_contract name)
  cmake_parse_arguments(ARG "" "PLUGIN_DIR" "SUITES;SOURCES;ENV" ${ARGN})
  find_package(GTest REQUIRED)
  string(TOLOWER ${name} lower)
  set(folder ${NIXL_CONTRACT_ROOT}/contract)
  set(nixl nixl::nixl)
  if(NOT TARGET nixl::nixl) # inside the tree, where it may be declared later
    set(nixl nixl)
  endif()
  if(NOT TARGET nixl_contract_suites)
    file(GLOB tests CONFIGURE_DEPENDS ${folder}/*_test.cpp)
    add_library(nixl_contract_suites OBJECT ${tests})
    target_include_directories(nixl_contract_suites PUBLIC ${NIXL_CONTRACT_ROOT})
    target_link_libraries(nixl_contract_suites PUBLIC ${nixl} GTest::gtest)
  endif()
  if("Storage" IN_LIST ARG_SUITES AND NOT ARG_SOURCES)
    message(FATAL_ERROR "nixl_add_contract(${name}): the suite Storage needs SOURCES with a function "
            "nx::test::backendUnderTest() that says how a store is made (contract/contract.h)")
  endif()
  if(NOT ARG_SOURCES)
    set(ARG_SOURCES ${folder}/plain.cpp)
  endif()
  set(program contract_${lower})
  add_executable(${program} ${folder}/main.cpp ${ARG_SOURCES})
  target_link_libraries(${program} PRIVATE nixl_contract_suites)
  list(JOIN ARG_SUITES " " suites)
  target_compile_definitions(${program} PRIVATE NX_CONTRACT_BACKEND="${name}" NX_CONTRACT_SUITES="${suites}")
  if(TARGET plugin_${name})
    add_dependencies(${program} plugin_${name}) # found at run time
  endif()
  foreach(mode IN ITEMS Polled Threaded)
    string(TOLOWER nx_contract_${lower}_${mode} test)
    add_test(NAME ${test} COMMAND ${program} --gtest_brief=1 --gtest_filter=*/${mode}*)
    # MALLOC_PERTURB_ lets a library that reads what it has not written meet no zeros.
    set_tests_properties(${test} PROPERTIES TIMEOUT 600 LABELS contract ENVIRONMENT
                         "NIXL_PLUGIN_DIR=${ARG_PLUGIN_DIR};NIXL_CONFIG_FILE=/dev/null;MALLOC_PERTURB_=85;${ARG_ENV}")
  endforeach()
endfunction()
