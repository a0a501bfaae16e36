from jaxdistill import config
from jaxdistill.models.student import Student
from jaxdistill.data import image_ops
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.exporters.model_card import describe
from jaxdistill.models.parameters import flat_variables
for kw in (dict(encoder="timm-efficientnet-b0"),dict(encoder="mobilenetv3_small_100",decoder="lr-aspp")):
    s=Student(config.Student(**kw),image_ops.resolve("imagenet"))
    v=flat_variables(s)
    t=sum(x.size for p,x in v.items() if p.endswith((".kernel",".bias",".scale")))
    o=describe(student_graph(s,Form()),Form()).weights
    print(kw,"onnx card",o,"tflite card",t, [p for p in v if "head" in p][:4])
