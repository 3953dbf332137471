# The headers by themselves: each compiles alone, and all compile together in either order. A header that forgets an
# include fails here, but for a call that depends on a template's arguments: that shows only where it is instantiated.
# Set HEADERS, as sources include them, and BY_ISA: those of them that each_isa.h reads.
reverse = $(if $(1),$(call reverse,$(wordlist 2,$(words $(1)),$(1))) $(firstword $(1)))
SYNTAX = $(CXX) $(FLAGS) -Werror -Wno-unused-function -I $(BUILD)/headers -fsyntax-only -MF $@.d -MT $@ -x c++ -
including = printf '\#include "%s"\n' $(1)
by_each_isa = printf '\#define UNITOK_SOURCE "%s"\n\#include "simd/each_isa.h"\n' $(1)
ORDINARY := $(filter-out $(BY_ISA),$(HEADERS))

.PHONY: headers
headers: $(patsubst %,$(BUILD)/headers/%.ok,$(HEADERS) forwards backwards)

$(patsubst %,$(BUILD)/headers/%.ok,$(ORDINARY)): source = $(call including,$*)
$(patsubst %,$(BUILD)/headers/%.ok,$(BY_ISA)): source = $(call by_each_isa,$*)
$(patsubst %,$(BUILD)/headers/%.ok,$(HEADERS)): $(BUILD)/headers/%.ok: Makefile
	@mkdir -p $(@D)
	@echo '  headers/$*'; $(source) | $(SYNTAX); touch $@

$(BUILD)/headers/forwards.ok: in_order = $(1)
$(BUILD)/headers/backwards.ok: in_order = $(call reverse,$(1))
$(BUILD)/headers/forwards.ok $(BUILD)/headers/backwards.ok: $(BUILD)/headers/%.ok: Makefile
	@mkdir -p $(@D)
	@$(call including,$(call in_order,$(BY_ISA))) > $(@:.ok=.h)
	@echo '  headers/$*'; \
	{ $(call including,$(call in_order,$(ORDINARY))); $(if $(BY_ISA),$(call by_each_isa,$*.h);) } | $(SYNTAX); touch $@
