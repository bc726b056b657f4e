//! The whole text of every answer to a faulty file.

use insta::assert_snapshot;

use super::answer;

#[test]
fn an_unknown_key_is_told_with_its_place_and_a_guess() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling:
      maxReplicas: 4
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:7  models[0].scaling.maxReplicas: unknown key, did you mean max?
          4 |     scaling:
          5 |       maxReplicas: 4
            |       ^^^^^^^^^^^
    "#);
}

#[test]
fn an_unknown_key_that_belongs_elsewhere_is_told_where() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    coldStartTimeout: 60s
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:5  models[0].coldStartTimeout: unknown key here
          4 |     scaling: {max: 4}
          5 |     coldStartTimeout: 60s
            |     ^^^^^^^^^^^^^^^^ there is models[].scaling.coldStartTimeout
    "#);
}

#[test]
fn an_unknown_key_like_no_other_is_answered_with_those_that_are_known() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    deadline: {patience: 3s}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:16  models[0].deadline.patience: unknown key
          4 |     scaling: {max: 4}
          5 |     deadline: {patience: 3s}
            |                ^^^^^^^^ known here: default, max, firstToken, betweenTokens
    "#);
}

#[test]
fn a_duration_without_unit_is_told_what_it_may_have_meant() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    slo:
      p99: 200
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:12  models[0].slo.p99: "200" needs a unit
          4 |     slo:
          5 |       p99: 200
            |            ^^^ write 200ms or 0.2s
    "#);
}

#[test]
fn a_small_number_without_unit_rather_means_seconds() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    deadline: {default: 30}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:25  models[0].deadline.default: "30" needs a unit
          4 |     scaling: {max: 4}
          5 |     deadline: {default: 30}
            |                         ^^ write 30s or 30ms
    "#);
}

#[test]
fn a_size_without_unit_is_told_what_it_may_have_meant() {
    let file = r#"
limits: {maxBody: 64}
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:19  limits.maxBody: "64" needs a unit
          1 | limits: {maxBody: 64}
            |                   ^^ write 64MiB or 64B
    "#);
}

#[test]
fn a_size_in_the_units_of_kubernetes_is_translated() {
    let file = r#"
limits: {maxBody: 64Mi}
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:19  limits.maxBody: "Mi" is no unit of size
          1 | limits: {maxBody: 64Mi}
            |                   ^^^^ write 64MiB
    "#);
}

#[test]
fn min_above_max_names_both_lines() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling:
      min: 5
      max: 4
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:12  models[0].scaling.min: 5 is more than max 4 (line 6)
          4 |     scaling:
          5 |       min: 5
            |            ^
    "#);
}

#[test]
fn a_deadline_above_its_maximum_names_both() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    deadline: {default: 10m}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:25  models[0].deadline.default: 10m is more than max 300s (the default)
          4 |     scaling: {max: 4}
          5 |     deadline: {default: 10m}
            |                         ^^^
    "#);
}

#[test]
fn a_hold_as_long_as_the_slo_names_both_lines() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    slo: {p95: 20ms}
    batching:
      maxHold: 20ms
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:7:16  models[0].batching.maxHold: rows are held 20ms, which leaves nothing of slo.p95 20ms (line 5)
          6 |     batching:
          7 |       maxHold: 20ms
            |                ^^^^ try at most 2ms, or batching: auto
    "#);
}

#[test]
fn a_hold_near_the_slo_is_doubtful() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    slo: {p95: 20ms}
    batching:
      maxHold: 15ms
"#;
    assert_snapshot!(answer(file), @r#"
    ! tidegate.yaml:7:16  models[0].batching.maxHold: 15ms is 75 % of slo.p95 20ms (line 5): at low traffic most of it is spent waiting
          6 |     batching:
          7 |       maxHold: 15ms
            |                ^^^^ try at most 2ms, or batching: auto
    "#);
}

#[test]
fn a_queue_larger_than_memory_names_both_lines() {
    let file = r#"
limits:
  memory: 64MiB
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    queue: {maxBytes: 1GiB}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:7:23  models[0].queue.maxBytes: 1GiB is more than limits.memory 64MiB (line 2)
          6 |     scaling: {max: 4}
          7 |     queue: {maxBytes: 1GiB}
            |                       ^^^^
    "#);
}

#[test]
fn a_default_larger_than_memory_is_told_at_the_memory() {
    let file = r#"
limits:
  memory: 32MiB
  maxBody: 8MiB
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:2:11  limits.memory: 32MiB is less than models[0].queue.maxBytes 64MiB (the default)
          1 | limits:
          2 |   memory: 32MiB
            |           ^^^^^
    "#);
}

#[test]
fn a_duplicate_key_names_both_lines() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    scaling: {max: 5}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:5  models[0].scaling: given twice, first in line 4
          4 |     scaling: {max: 4}
          5 |     scaling: {max: 5}
            |     ^^^^^^^ keep one of them
    "#);
}

#[test]
fn a_tab_is_no_indentation() {
    let file = "models:\n\t- name: digits\n";
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:2:2  a tab cannot indent
          1 | models:
          2 |  - name: digits
            |  ^ use spaces
    "#);
}

#[test]
fn a_boolean_of_yaml_1_1_is_refused() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    idempotent: yes
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:17  models[0].idempotent: "yes" is not true or false
          4 |     scaling: {max: 4}
          5 |     idempotent: yes
            |                 ^^^ write true
    "#);
}

#[test]
fn off_is_a_word_where_a_word_is_asked_for() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    batching: on
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:15  models[0].batching: "on" is unknown
          4 |     scaling: {max: 4}
          5 |     batching: on
            |               ^^ one of auto, off, or a section
    "#);
}

#[test]
fn a_number_that_some_read_as_octal_is_refused() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 010}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:4:20  models[0].scaling.max: "010" begins with 0, which some read as octal
          3 |     fleet: {process: {command: [serve, "{port}"]}}
          4 |     scaling: {max: 010}
            |                    ^^^ write 10
    "#);
}

#[test]
fn a_quoted_number_is_a_text() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: "4"}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:4:20  models[0].scaling.max: "4" is a text here
          3 |     fleet: {process: {command: [serve, "{port}"]}}
          4 |     scaling: {max: "4"}
            |                    ^^^ write 4, without quotes
    "#);
}

#[test]
fn a_number_out_of_range_is_told_the_range() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 0}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:4:20  models[0].scaling.max: 0 is out of range
          3 |     fleet: {process: {command: [serve, "{port}"]}}
          4 |     scaling: {max: 0}
            |                    ^ write a whole number from 1 to 10000
    "#);
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let file = &bomb();
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:32  too much content, aliases expanded
          4 | d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c]
          5 | e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d, *d]
            |                                ^^ write the values out, or use fewer
    "#);
}

#[test]
fn an_alias_without_an_anchor_is_refused() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    slo: {p99: *fast}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:16  an alias ("*name") without an anchor ("&name")
          4 |     scaling: {max: 4}
          5 |     slo: {p99: *fast}
            |                ^ quote a text that begins with *
    "#);
}

#[test]
fn a_merge_key_is_refused() {
    let file = r#"
limits: {<<: {memory: 1GiB}}
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:10  limits.<<: merge keys are not supported
          1 | limits: {<<: {memory: 1GiB}}
            |          ^^ write the keys out
    "#);
}

#[test]
fn a_tag_is_refused() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    slo: {p99: !duration 100ms}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:26  tags ("!…") have no meaning here
          4 |     scaling: {max: 4}
          5 |     slo: {p99: !duration 100ms}
            |                          ^^^^^ remove the tag
    "#);
}

#[test]
fn an_empty_file_points_to_a_sample() {
    let file = "";
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:1  the file is empty
          1 |
            | ^ "tidegate config default" prints one to start from
    "#);
}

#[test]
fn a_file_of_comments_is_empty() {
    let file = r#"
# nothing yet
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:1  the file is empty
          1 | # nothing yet
            | ^ "tidegate config default" prints one to start from
    "#);
}

#[test]
fn a_second_document_is_refused() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
---
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:1  a second document begins here
          4 |     scaling: {max: 4}
          5 | ---
            | ^^^ one file, one document
    "#);
}

#[test]
fn nesting_is_bounded() {
    let file = &("[".repeat(40) + &"]".repeat(40));
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:33  nested more than 32 deep
          1 | [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]
            |                                 ^
    "#);
}

#[test]
fn an_unclosed_bracket_is_told_where() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:4:14  not valid YAML: unclosed bracket '{'
          3 |     fleet: {process: {command: [serve, "{port}"]}}
          4 |     scaling: {max: 4
            |              ^
    "#);
}

#[test]
fn a_list_at_the_top_is_no_configuration() {
    let file = r#"
- name: digits
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:1  a list cannot stand here
          1 | - name: digits
            | ^ write a section: keys with values
    "#);
}

#[test]
fn a_key_without_a_value_is_told_both_ways_out() {
    let file = r#"
limits:
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:1  limits: has no value
          1 | limits:
            | ^^^^^^ write a section: keys with values, or remove the key
    "#);
}

#[test]
fn a_command_without_port_is_refused() {
    let file = r#"
models:
  - name: digits
    fleet:
      process:
        command: [serve, --port, "8001"]
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:9  models[0].fleet.process.command: {port} is missing: replicas would not know where to listen
          4 |       process:
          5 |         command: [serve, --port, "8001"]
            |         ^^^^^^^ add an argument with "{port}", like --port, "{port}"
    "#);
}

#[test]
fn a_fleet_is_one_of_three() {
    let file = r#"
models:
  - name: digits
    fleet:
      process: {command: [serve, "{port}"]}
      static: {addresses: [10.0.0.4:8001]}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:7  models[0].fleet.static: a fleet is one of process, kubernetes and static, and there is process (line 4) already
          4 |       process: {command: [serve, "{port}"]}
          5 |       static: {addresses: [10.0.0.4:8001]}
            |       ^^^^^^ remove one of them
    "#);
}

#[test]
fn a_fleet_is_required() {
    let file = r#"
models:
  - name: digits
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:2:5  models[0]: fleet is missing
          1 | models:
          2 |   - name: digits
            |     ^ add fleet: {process: {command: [serve, --port, "{port}"]}}
    "#);
}

#[test]
fn an_empty_fleet_is_refused() {
    let file = r#"
models:
  - name: digits
    fleet: {}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:3:12  models[0].fleet: names none of process, kubernetes and static
          2 |   - name: digits
          3 |     fleet: {}
            |            ^ add process: {command: […]}
    "#);
}

#[test]
fn the_greatest_number_of_replicas_is_required() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:2:5  models[0]: scaling.max is missing
          1 | models:
          2 |   - name: digits
            |     ^ add scaling: {max: 4}
    "#);
}

#[test]
fn a_protocol_is_guessed() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    protocol: grpc-v2
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:15  models[0].protocol: "grpc-v2" is unknown
          4 |     scaling: {max: 4}
          5 |     protocol: grpc-v2
            |               ^^^^^^^ one of v2-grpc, v2-http, v1, openai
    "#);
}

#[test]
fn keys_of_chat_models_are_refused_elsewhere() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    slo: {ttft: {p99: 2s}}
    deadline: {firstToken: 10s}
    routing: {loadFactor: 2}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:11  models[0].slo.ttft: is for protocol openai, and there is protocol v2-grpc (the default)
          4 |     scaling: {max: 4}
          5 |     slo: {ttft: {p99: 2s}}
            |           ^^^^ write p99: 100ms, the time of whole answers
    ✗ tidegate.yaml:6:16  models[0].deadline.firstToken: is for protocol openai, and there is protocol v2-grpc (the default)
          5 |     slo: {ttft: {p99: 2s}}
          6 |     deadline: {firstToken: 10s}
            |                ^^^^^^^^^^ remove it
    ✗ tidegate.yaml:7:5  models[0].routing: is for protocol openai, and there is protocol v2-grpc (the default)
          6 |     deadline: {firstToken: 10s}
          7 |     routing: {loadFactor: 2}
            |     ^^^^^^^ remove it
    "#);
}

#[test]
fn objectives_of_whole_answers_and_of_tokens_exclude_each_other() {
    let file = r#"
models:
  - name: chat
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    protocol: openai
    slo: {p99: 2s, tpot: {p95: 60ms, p99: 90ms}}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:6:11  models[0].slo.p99: either whole answers or tokens have an objective, and there is tpot (line 6) already
          5 |     protocol: openai
          6 |     slo: {p99: 2s, tpot: {p95: 60ms, p99: 90ms}}
            |           ^^^ remove p99; where there are only embeddings, remove tpot
    ✗ tidegate.yaml:6:38  models[0].slo.tpot.p99: only one percentile can be the objective, and there is p95 (line 6) already
          5 |     protocol: openai
          6 |     slo: {p99: 2s, tpot: {p95: 60ms, p99: 90ms}}
            |                                      ^^^ remove one of them
    "#);
}

#[test]
fn deadlines_of_tokens_stay_within_the_longest() {
    let file = r#"
models:
  - name: chat
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4, coldStartTimeout: 20s}
    protocol: openai
    slo: {ttft: {p90: 15s}, tpot: {p50: 4s}}
    deadline: {default: 20s, max: 25s, firstToken: 30s, betweenTokens: 3s}
    routing: {loadFactor: 0.5, sessionHeader: "session id"}
"#;
    assert_snapshot!(answer(file), @r#"
    ! tidegate.yaml:6:41  models[0].slo.tpot.p50: 4s is beyond deadline.betweenTokens 3s (line 7): late calls end before they have an answer
          5 |     protocol: openai
          6 |     slo: {ttft: {p90: 15s}, tpot: {p50: 4s}}
            |                                         ^^
    ✗ tidegate.yaml:7:52  models[0].deadline.firstToken: 30s is more than max 25s (line 7)
          6 |     slo: {ttft: {p90: 15s}, tpot: {p50: 4s}}
          7 |     deadline: {default: 20s, max: 25s, firstToken: 30s, betweenTokens: 3s}
            |                                                    ^^^
    ✗ tidegate.yaml:8:27  models[0].routing.loadFactor: 0.5 is out of range
          7 |     deadline: {default: 20s, max: 25s, firstToken: 30s, betweenTokens: 3s}
          8 |     routing: {loadFactor: 0.5, sessionHeader: "session id"}
            |                           ^^^ write a number from 1 to 10, like 1.25
    ✗ tidegate.yaml:8:47  models[0].routing.sessionHeader: "session id" is not allowed here
          7 |     deadline: {default: 20s, max: 25s, firstToken: 30s, betweenTokens: 3s}
          8 |     routing: {loadFactor: 0.5, sessionHeader: "session id"}
            |                                               ^^^^^^^^^^^^ write a header's name: letters, digits and "-", at most 64
    "#);
}

#[test]
fn two_percentiles_are_one_too_many() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    slo: {p95: 50ms, p99: 100ms}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:22  models[0].slo.p99: only one percentile can be the objective, and there is p95 (line 5) already
          4 |     scaling: {max: 4}
          5 |     slo: {p95: 50ms, p99: 100ms}
            |                      ^^^ remove one of them
    "#);
}

#[test]
fn two_models_of_one_name_name_both_lines() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:11  models[1].name: "digits" is taken by models[0].name digits (line 2)
          4 |     scaling: {max: 4}
          5 |   - name: digits
            |           ^^^^^^ write another
    "#);
}

#[test]
fn a_name_that_needs_quoting_in_a_path_is_refused() {
    let file = r#"
models:
  - name: my model
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:2:11  models[0].name: "my model" is not allowed here
          1 | models:
          2 |   - name: my model
            |           ^^^^^^^^ write letters, digits, ".", "_" and "-", at most 128, beginning with a letter or digit
    "#);
}

#[test]
fn no_model_is_one_too_few() {
    let file = r#"
models: []
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:9  models: is empty
          1 | models: []
            |         ^ write at least one
    "#);
}

#[test]
fn models_are_required() {
    let file = r#"
listen: 0.0.0.0:8080
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:1  models is missing
          1 | listen: 0.0.0.0:8080
            | ^ add models:
    "#);
}

#[test]
fn an_admin_port_open_to_others_is_refused() {
    let file = r#"
admin: 0.0.0.0:9090
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:8  admin: 0.0.0.0:9090 is open to other machines, and the admin API has no authentication
          1 | admin: 0.0.0.0:9090
            |        ^^^^^^^^^^^^ write 127.0.0.1:9090, or add allowInsecureAdmin: true
    "#);
}

#[test]
fn one_address_cannot_listen_twice() {
    let file = r#"
listen: [127.0.0.1:9090, "127.0.0.1:8080"]
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:10  listen[0]: "127.0.0.1:9090" is taken by admin 127.0.0.1:9090 (the default)
          1 | listen: [127.0.0.1:9090, "127.0.0.1:8080"]
            |          ^^^^^^^^^^^^^^ write another
    "#);
}

#[test]
fn a_host_name_is_no_address_to_listen_on() {
    let file = r#"
listen: localhost:8080
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:9  listen: "localhost:8080" is no address and port
          1 | listen: localhost:8080
            |         ^^^^^^^^^^^^^^ write 127.0.0.1:8080
    "#);
}

#[test]
fn tls_is_refused() {
    let file = r#"
tls: {cert: a.pem, key: b.pem}
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:1:1  tls: TLS is not supported by this version
          1 | tls: {cert: a.pem, key: b.pem}
            | ^^^ remove it and end TLS in front of the gateway
    "#);
}

#[test]
fn tenants_are_refused() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    tenants: {a: "10"}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:5  models[0].tenants: tenants are not supported by this version
          4 |     scaling: {max: 4}
          5 |     tenants: {a: "10"}
            |     ^^^^^^^ remove them
    "#);
}

#[test]
fn a_secret_in_plain_text_is_doubtful() {
    let file = r#"
models:
  - name: digits
    fleet:
      process:
        command: [serve, "{port}"]
        env: {HF_TOKEN: hf_abc, HOME: "${HOME}"}
    scaling: {max: 4}
"#;
    assert_snapshot!(answer(file), @r#"
    ! tidegate.yaml:6:15  models[0].fleet.process.env.HF_TOKEN: looks like a secret in plain text
          5 |         command: [serve, "{port}"]
          6 |         env: {HF_TOKEN: hf_abc, HOME: "${HOME}"}
            |               ^^^^^^^^ leave it out: replicas inherit the gateway's environment
    ! tidegate.yaml:6:33  models[0].fleet.process.env.HOME: is passed on as it stands: variables are not expanded here
          5 |         command: [serve, "{port}"]
          6 |         env: {HF_TOKEN: hf_abc, HOME: "${HOME}"}
            |                                 ^^^^ replicas inherit the gateway's environment
    "#);
}

#[test]
fn scaling_of_a_static_fleet_is_doubtful() {
    let file = r#"
models:
  - name: digits
    fleet: {static: {addresses: [mlserver:8001]}}
    scaling: {max: 4, coldStartTimeout: 10s}
"#;
    assert_snapshot!(answer(file), @r#"
    ! tidegate.yaml:4:15  models[0].scaling.max: has no effect: a static fleet is not scaled
          3 |     fleet: {static: {addresses: [mlserver:8001]}}
          4 |     scaling: {max: 4, coldStartTimeout: 10s}
            |               ^^^ remove it
    "#);
}

#[test]
fn a_cold_start_longer_than_any_deadline_is_doubtful() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    deadline: {default: 5s, max: 60s}
"#;
    assert_snapshot!(answer(file), @r#"
    ! tidegate.yaml:5:34  models[0].deadline.max: 60s is short of scaling.coldStartTimeout 120s (the default): no call waits that long for a replica to start
          4 |     scaling: {max: 4}
          5 |     deadline: {default: 5s, max: 60s}
            |                                  ^^^ raise deadline.max, or lower coldStartTimeout
    "#);
}

#[test]
fn an_slo_longer_than_the_deadline_is_doubtful() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    slo: {p99: 45s}
"#;
    assert_snapshot!(answer(file), @r#"
    ! tidegate.yaml:5:16  models[0].slo.p99: 45s is beyond deadline.default 30s (the default): late calls end before they have an answer
          4 |     scaling: {max: 4}
          5 |     slo: {p99: 45s}
            |                ^^^
    "#);
}

#[test]
fn schedules_are_checked() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling:
      max: 4
      schedules:
        - {name: day, timezone: Europe/Prag, from: 07:00, to: 25:00, min: 9}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:7:33  models[0].scaling.schedules[0].timezone: "Europe/Prag" is no time zone
          6 |       schedules:
          7 |         - {name: day, timezone: Europe/Prag, from: 07:00, to: 25:00, min: 9}
            |                                 ^^^^^^^^^^^ did you mean Europe/Prague?
    ✗ tidegate.yaml:7:63  models[0].scaling.schedules[0].to: "25:00" is not allowed here
          6 |       schedules:
          7 | …Europe/Prag, from: 07:00, to: 25:00, min: 9}
            |                                ^^^^^ write a time of day, like 07:00
    ✗ tidegate.yaml:7:75  models[0].scaling.schedules[0].min: 9 is more than max 4 (line 5)
          6 |       schedules:
          7 | … from: 07:00, to: 25:00, min: 9}
            |                                ^
    "#);
}

#[test]
fn a_floor_above_a_cap_at_the_same_time_is_refused() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling:
      max: 4
      schedules:
        - {name: evening, timezone: Europe/Prague, from: 18:00, to: 23:00, min: 2}
        - {name: night, timezone: Europe/Prague, days: [mon], from: 22:00, to: 07:00, max: 0}
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:7:11  models[0].scaling.schedules[0]: min 2 is more than max 0 of "night" (line 8), and both apply at times
          6 |       schedules:
          7 |         - {name: evening, timezone: Europe/Prague, from: 18:00, to: 23:00, min: 2}
            |           ^ let the windows not overlap
    "#);
}

#[test]
fn windows_that_come_to_nothing_are_warned_of() {
    let file = r#"
models:
  - name: digits
    fleet: {kubernetes: {target: Deployment/digits, port: 8001}}
    scaling:
      min: 2
      max: 4
      schedules:
        - {name: tick, timezone: UTC, from: 12:00, to: 12:01, min: 3}
        - {name: day, timezone: UTC, from: 07:00, to: 11:00, min: 3, prewarm: 30s}
        - {name: late, timezone: UTC, from: 19:00, to: 21:00, min: 2}
        - {name: night, timezone: UTC, from: 22:00, to: 06:00, max: 0, onRequest: reject}
"#;
    assert_snapshot!(answer(file), @r#"
    ! tidegate.yaml:8:56  models[0].scaling.schedules[0].to: 12:01 ends the window after 60s, and a start is assumed to take 120s
          7 |       schedules:
          8 |         - {name: tick, timezone: UTC, from: 12:00, to: 12:01, min: 3}
            |                                                        ^^^^^ let it last longer: one late replica is none
    ! tidegate.yaml:9:79  models[0].scaling.schedules[1].prewarm: 30s is less than a start is assumed to take, 120s: the window would begin without its replicas
          8 |         - {name: tick, timezone: UTC, from: 12:00, to: 12:01, min: 3}
          9 | …, to: 11:00, min: 3, prewarm: 30s}
            |                                ^^^ write auto: starts are measured
    ! tidegate.yaml:10:68  models[0].scaling.schedules[2].min: 2 changes nothing beside min 2 (line 5)
          9 |         - {name: day, timezone: UTC, from: 07:00, to: 11:00, min: 3, prewarm: 30s}
         10 | … from: 19:00, to: 21:00, min: 2}
            |                                ^ remove it, or write more
    ! tidegate.yaml:11:69  models[0].scaling.schedules[3].max: 0 is stronger than min 2 (line 5): while the window is open the model is off, and calls are refused
         10 |         - {name: late, timezone: UTC, from: 19:00, to: 21:00, min: 2}
         11 | … from: 22:00, to: 06:00, max: 0, onRequest: reject}
            |                                ^
    "#);
}

#[test]
fn a_child_process_is_there_in_seconds() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling:
      max: 4
      schedules:
        - {name: tick, timezone: UTC, from: 12:00, to: 12:01, min: 3, prewarm: 15s}
        - {name: night, timezone: UTC, from: 22:00, to: 06:00, max: 0, onRequest: reject}
"#;
    assert_snapshot!(answer(file), @"");
}

#[test]
fn control_characters_and_long_lines_do_not_reach_the_terminal() {
    let file = r#"
models:
  - name: digits
    fleet: {process: {command: [serve, "{port}"]}}
    scaling: {max: 4}
    protocol: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\e[31m"
"#;
    assert_snapshot!(answer(file), @r#"
    ✗ tidegate.yaml:5:15  models[0].protocol: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…" is unknown
          4 |     scaling: {max: 4}
          5 |     protocol: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\e[31m"
            |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ one of v2-grpc, v2-http, v1, openai
    "#);
}

/// Six levels of twenty aliases each: 64 million texts.
fn bomb() -> String {
    let mut file = format!("a: &a [{0}, {0}]\n", "x".repeat(20));
    for (name, before) in ('b'..='g').zip('a'..='f') {
        let aliases = vec![format!("*{before}"); 20].join(", ");
        file.push_str(&format!("{name}: &{name} [{aliases}]\n"));
    }
    file
}
