# What a pool of kind `exec` on EC2 needs: a launch template, a security group without entry, and a policy for
# the dispatcher that may start, list and terminate instances of this template alone.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "image_id" {
  type        = string
  description = "An image with Docker, git, nftables and curl."
}
variable "instance_type" {
  type    = string
  default = "c7i.2xlarge"
}
variable "subnet_id" { type = string }
variable "vpc_id" { type = string }
variable "slipway_url" {
  type        = string
  description = "Archive with the binary `slipway` and deploy/packaging."
}
variable "slipway_sha256" {
  type        = string
  description = "SHA-256 of the binary."
}

resource "aws_security_group" "agent" {
  name_prefix = "slipway-agent-"
  vpc_id      = var.vpc_id
  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_launch_template" "agent" {
  name          = "slipway-agent"
  image_id      = var.image_id
  instance_type = var.instance_type
  network_interfaces {
    subnet_id       = var.subnet_id
    security_groups = [aws_security_group.agent.id]
  }
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  # Ends by itself, it is gone: nothing is ever started again.
  instance_initiated_shutdown_behavior = "terminate"
}

# Baked into the image, or by your provisioning: fetches Slipway, then reads SLIPWAY_AGENT_* from user data.
output "first_boot" {
  value = <<-SH
    #!/bin/sh
    set -eu
    curl -fsSL '${var.slipway_url}' | tar -xz -C /opt
    sh /opt/slipway/packaging/install.sh --role agent --binary /opt/slipway/slipway \
      --sha256 '${var.slipway_sha256}' --no-start
    token=$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
    umask 077
    curl -fsS -H "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/user-data >/etc/slipway/agent.env
    mkdir -p /etc/systemd/system/slipway-agent.service.d
    printf '[Service]\nEnvironmentFile=/etc/slipway/agent.env\n' >/etc/systemd/system/slipway-agent.service.d/pool.conf
    systemctl daemon-reload
    systemctl enable --now slipway-cache slipway-agent
  SH
}

data "aws_iam_policy_document" "dispatcher" {
  statement {
    actions   = ["ec2:DescribeInstances"]
    resources = ["*"]
  }
  statement {
    actions   = ["ec2:RunInstances", "ec2:CreateTags"]
    resources = ["*"]
    condition {
      test     = "ArnLikeIfExists"
      variable = "ec2:LaunchTemplate"
      values   = [aws_launch_template.agent.arn]
    }
  }
  statement {
    actions   = ["ec2:TerminateInstances"]
    resources = ["*"]
    condition {
      test     = "Null"
      variable = "aws:ResourceTag/slipway:installation"
      values   = ["false"]
    }
  }
}

resource "aws_iam_policy" "dispatcher" {
  name_prefix = "slipway-fleet-"
  policy      = data.aws_iam_policy_document.dispatcher.json
}
