//! ValidatingAdmissionPolicy: expressions that say which requests are refused.

use crate::meta::ObjectMeta;
use crate::view::{object, views};

views! {
    pub struct ValidatingAdmissionPolicy {
        pub metadata: ObjectMeta,
        pub spec: ValidatingAdmissionPolicySpec,
        pub status: ValidatingAdmissionPolicyStatus,
    }

    pub struct ValidatingAdmissionPolicySpec {
        pub param_kind: Option<ParamKind>,
        pub match_constraints: MatchResources,
        pub match_conditions: Vec<NamedExpression>,
        pub variables: Vec<NamedExpression>,
        pub validations: Vec<Validation>,
        pub audit_annotations: Vec<AuditAnnotation>,
    }

    pub struct ParamKind {
        pub api_version: String,
        pub kind: String,
    }

    pub struct MatchResources {
        pub resource_rules: Vec<ResourceRule>,
    }

    /// `*` stands for all.
    pub struct ResourceRule {
        pub api_groups: Vec<String>,
        pub api_versions: Vec<String>,
        pub resources: Vec<String>,
    }

    pub struct NamedExpression {
        pub name: String,
        pub expression: String,
    }

    pub struct Validation {
        pub expression: String,
        pub message_expression: String,
    }

    pub struct AuditAnnotation {
        pub value_expression: String,
    }

    pub struct ValidatingAdmissionPolicyStatus {
        pub observed_generation: i64,
        /// Absent: nobody has looked at its expressions.
        pub type_checking: Option<TypeChecking>,
    }

    pub struct TypeChecking {
        pub expression_warnings: Vec<ExpressionWarning>,
    }

    pub struct ExpressionWarning {
        /// As `spec.validations[0].expression`.
        pub field_ref: String,
        pub warning: String,
    }
}

object!(ValidatingAdmissionPolicy, VALIDATING_ADMISSION_POLICY);
