# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
#
# Lets AGENTS record their telemetry in WORK and looks at what READER prints of it.
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
set(ENV{NIXL_TELEMETRY_ENABLE} yes)
set(ENV{NIXL_TELEMETRY_DIR} ${WORK}/rings)
execute_process(COMMAND ${AGENTS} LOOPBACK COMMAND_ERROR_IS_FATAL ANY)

function(read_ring expected)
  execute_process(COMMAND ${READER} --once ${WORK}/rings/initiator OUTPUT_VARIABLE printed COMMAND_ERROR_IS_FATAL ANY)
  if(NOT printed MATCHES "${expected}")
    message(FATAL_ERROR "the reader printed\n${printed}instead of\n${expected}")
  endif()
endfunction()

set(time "[0-9]+ us\n")
read_ring("^agent_memory_registered 1048576 bytes\nagent_xfer_post_time ${time}agent_xfer_time ${time}agent_tx_bytes \
1048576 bytes\nagent_tx_requests_num 1\nagent_memory_deregistered 1048576 bytes\n$")
read_ring("^$")

file(WRITE ${WORK}/notes "no ring at all, but as long as the header of one would be")
execute_process(COMMAND ${READER} --once ${WORK}/notes RESULT_VARIABLE result ERROR_VARIABLE error)
if(NOT result EQUAL 1 OR NOT error MATCHES "is no telemetry ring: its capacity is")
  message(FATAL_ERROR "the reader ended with ${result}: ${error}")
endif()
