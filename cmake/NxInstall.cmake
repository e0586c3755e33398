# What `cmake --install` puts where: libnixl, the headers as they are, the plugins beside the library, and how
# pkg-config and CMake find them. Everything is found relative to itself, so the prefix may change later.
include(CMakePackageConfigHelpers)

target_compile_features(nixl INTERFACE cxx_std_20)
install(TARGETS nixl EXPORT nixl LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})

# nixl::kit, what backends share, for those built elsewhere: static, so that it goes into the plugin, hidden there.
add_library(nixl_kit STATIC $<TARGET_OBJECTS:nx_kit> $<TARGET_OBJECTS:nx_loop> $<TARGET_OBJECTS:nx_wire>
            $<TARGET_OBJECTS:nx_base_leaf>)
set_target_properties(nixl_kit PROPERTIES EXPORT_NAME kit)
target_compile_features(nixl_kit INTERFACE cxx_std_20)
target_include_directories(nixl_kit INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/nixl_kit>)
target_link_libraries(nixl_kit INTERFACE nixl Threads::Threads)
install(TARGETS nixl_kit EXPORT nixl ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/plugins/kit/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/nixl_kit/kit
        FILES_MATCHING PATTERN "*.h")
foreach(header IN ITEMS base/boundary base/error base/fd base/memory_set base/mutex base/thread loop/loop wire/limits
                         wire/metadata)
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${CMAKE_SOURCE_DIR}/src/${header}.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/nixl_kit/${folder})
endforeach()
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

get_property(plugins GLOBAL PROPERTY NX_PLUGINS)
foreach(plugin IN LISTS plugins)
  install(TARGETS ${plugin} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/plugins)
endforeach()

file(RELATIVE_PATH NX_PC_TO_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(${CMAKE_SOURCE_DIR}/cmake/nixl.pc.in ${CMAKE_BINARY_DIR}/generated/nixl.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/generated/nixl.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(NX_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/nixl)
install(EXPORT nixl FILE nixlTargets.cmake NAMESPACE nixl:: DESTINATION ${NX_PACKAGE_DIR})
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/nixlConfig.cmake.in
                              ${CMAKE_BINARY_DIR}/generated/nixlConfig.cmake
                              INSTALL_DESTINATION ${NX_PACKAGE_DIR} PATH_VARS CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/generated/nixlConfigVersion.cmake
                                 COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_BINARY_DIR}/generated/nixlConfig.cmake ${CMAKE_BINARY_DIR}/generated/nixlConfigVersion.cmake
        DESTINATION ${NX_PACKAGE_DIR})

# The suites that a backend outside this tree is tested with.
if(EXISTS ${CMAKE_SOURCE_DIR}/tests/contract)
  install(FILES ${CMAKE_SOURCE_DIR}/cmake/NixlContract.cmake DESTINATION ${NX_PACKAGE_DIR})
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/tests/contract DESTINATION ${NX_PACKAGE_DIR}/tests)
  install(FILES ${CMAKE_SOURCE_DIR}/tests/support/agent_pair.h ${CMAKE_SOURCE_DIR}/tests/support/buffer.h
                ${CMAKE_SOURCE_DIR}/tests/support/eventually.h
          DESTINATION ${NX_PACKAGE_DIR}/tests/support)
endif()
